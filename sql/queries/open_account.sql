-- Returns the id of the user's account at a source, opening it on first use.
insert into public.import_sources (user_id, source_app, account_email, is_active)
values (%(user_id)s, %(source_app)s, %(email)s, %(is_active)s)
on conflict (user_id, source_app) do update
set account_email = coalesce(import_sources.account_email, excluded.account_email)
returning id
