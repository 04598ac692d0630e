-- Keeps the credential of an account and its options, in place of earlier ones.
insert into import_pipeline.credentials as credential (account_id, secret, options)
values (%(account_id)s, %(secret)s, %(options)s)
on conflict (account_id) do update
set secret = excluded.secret, options = excluded.options, updated_at = now()
