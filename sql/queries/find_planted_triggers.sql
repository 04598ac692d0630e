-- Returns the triggers on tables of the library whose functions belong to whoever comes through an API, or to the
-- session of somebody who is logged in now, each with its table and the function's owner.
select t.tgname, c.relname, r.rolname
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as s on s.oid = c.relnamespace
join pg_catalog.pg_proc as f on f.oid = t.tgfoid
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
join pg_catalog.pg_roles as r on r.oid = f.proowner
where not t.tgisinternal
    and s.nspname || '.' || c.relname in (
        'public.recordings', 'public.vault_entries', 'public.sync_jobs', 'public.import_sources', 'public.import_items'
    )
    and (n.nspname ~ '^pg_temp' or r.rolname in ('anon', 'authenticated', 'authenticator'))
order by 2, 1
limit 1
