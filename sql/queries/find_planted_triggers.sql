-- Returns the triggers that would run code of strangers where the importer writes, as findings of the audit: on the tables
-- that imports write, and on the given ones, functions of a session and of strangers; on any other table, which a trigger of
-- the owner's may write, those of strangers who come through an API. No strangers are superusers, the owners of the database
-- and of the recordings, the role that migrated, roles whose rights these have, and Supabase's own; on a table that imports
-- write, its owner. Types and tables are spelt out: a pooled session may have temporary ones of another client.
with trusting as (
    select d.datdba as oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()
    union
    select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'import_pipeline'
    union
    select c.relowner
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'public' and c.relname = 'recordings'
),
imported as (
    select c.oid, c.relowner
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'import_pipeline'
        or (
            n.nspname = 'public'
            and c.relname in ('recordings', 'vault_entries', 'sync_jobs', 'import_sources', 'import_items')
        )
),
triggers as (
    select
        pg_catalog.format('trigger %%I on %%I.%%I', t.tgname, s.nspname, c.relname) as object,
        pg_catalog.format('%%I.%%I()', n.nspname, f.proname) as function,
        i.oid is not null or s.nspname || '.' || c.relname = any (%(tables)s::pg_catalog.text[]) as is_written,
        n.nspname ~ '^pg_temp_' as is_temporary,
        f.proowner as role,
        r.rolname,
        r.rolsuper or coalesce(f.proowner = i.relowner, false) as is_trusted,
        f.proowner = c.relowner as is_his,
        r.rolname in ('anon', 'authenticated', 'authenticator', 'service_role', 'import_worker', 'import_login') as is_low
    from pg_catalog.pg_trigger as t
    join pg_catalog.pg_class as c on c.oid = t.tgrelid
    join pg_catalog.pg_namespace as s on s.oid = c.relnamespace
    join pg_catalog.pg_proc as f on f.oid = t.tgfoid
    join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
    join pg_catalog.pg_roles as r on r.oid = f.proowner
    left join imported as i on i.oid = t.tgrelid
    where not t.tgisinternal and s.nspname !~ '^pg_temp_'
)
select
    'danger' as severity,
    t.object,
    case
        when t.is_temporary then 'Runs a temporary function of ' || t.rolname || '''s session.'
        else 'Runs ' || t.function || ', which belongs to ' || t.rolname || ' and not to the owner of the table.'
    end as problem,
    'drop ' || t.object || ';' as remedy
from triggers as t
where (t.is_written and t.is_temporary)
    or (
        not t.is_trusted
        and (
            t.is_written
            or (
                not t.is_his  -- what writes to a stranger's table trusts them
                and (
                    t.is_temporary
                    or t.is_low
                    or exists (
                        select
                        from pg_catalog.pg_roles as api
                        where api.rolname in ('anon', 'authenticated')
                            and pg_catalog.pg_has_role(t.role, api.oid, 'member')
                    )
                )
            )
        )
        and (
            t.is_low
            or not (
                t.rolname = 'pg_database_owner'
                or t.rolname ~ '^supabase_'
                or exists (
                    select
                    from trusting as w
                    join pg_catalog.pg_roles as o on o.oid = w.oid
                    -- Of a superuser it would be said that they have the rights of everybody.
                    where w.oid = t.role or (not o.rolsuper and pg_catalog.pg_has_role(w.oid, t.role, 'usage'))
                )
            )
        )
    )
order by 2
