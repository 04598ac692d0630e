-- Returns what our policies and functions trust although it belongs to others than who migrated (or, asked by him,
-- migrates), the owner of the database, superusers, and roles that nobody can be. The first migration asks the same.
with trusting as (
    select w.oid, w.rolsuper
    from pg_catalog.pg_roles as w
    where w.oid = (select d.datdba from pg_catalog.pg_database as d where d.datname = current_database())
        or w.oid = coalesce(
            (
                select n.nspowner
                from pg_catalog.pg_namespace as n
                where n.nspname = 'import_pipeline' and not %(migrates)s::boolean
            ),
            current_user::regrole
        )
),
trusted as (
    select 'schema ' || n.nspname as name, n.nspowner as owner, n.nspname
    from pg_catalog.pg_namespace as n
    where n.nspname in ('public', 'auth', 'import_pipeline')
    union all
    select
        case when c.relkind in ('r', 'p') then 'table ' else 'view ' end || c.oid::regclass, c.relowner, n.nspname
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
        and (
            n.nspname = 'import_pipeline'
            or n.nspname || '.' || c.relname in (
                'auth.users', 'public.banks', 'public.bank_memberships', 'public.vaults', 'public.vault_memberships',
                'public.recordings', 'public.vault_entries', 'public.sync_jobs', 'public.import_sources',
                'public.import_items'
            )
        )
    union all
    select 'function ' || f.oid::regprocedure, f.proowner, n.nspname
    from pg_catalog.pg_proc as f
    join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
    where n.nspname = 'import_pipeline'
        or (n.nspname = 'public' and f.proname = 'get_import_counts')
        or (n.nspname = 'auth' and f.proname in ('uid', 'role', 'jwt'))
)
select
    'danger',
    t.name,
    'Belongs to ' || r.rolname || ', who can change what our policies trust.',
    'alter ' || t.name || ' owner to '
        || quote_ident((
            select o.rolname
            from pg_catalog.pg_roles as o
            join pg_catalog.pg_database as d on d.datdba = o.oid
            where d.datname = current_database()
        )) || ';  -- look at what is there first'
from trusted as t
join pg_catalog.pg_roles as r on r.oid = t.owner
where not r.rolsuper
    and r.rolname <> 'pg_database_owner'
    and (
        r.rolname in ('anon', 'authenticated', 'service_role', 'import_worker', 'import_login')
        or not (
            exists (
                select
                from trusting as w
                -- Of a superuser it would be said that he has the rights of everybody.
                where w.oid = r.oid or (not w.rolsuper and pg_has_role(w.oid, r.oid, 'usage'))
            )
            or (t.nspname = 'auth' and r.rolname ~ '^supabase_')
            or not (
                r.rolcanlogin or exists (select from pg_catalog.pg_auth_members as m where m.roleid = r.oid)
            )
        )
    )
order by 2
