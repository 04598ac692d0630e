-- Returns the tables whose rows policies hide from our own functions, because they are forced or the functions have
-- another owner: these functions would find nothing, without an error.
select
    'danger',
    'table ' || c.oid::regclass,
    'Its policies hide rows from the functions of import_pipeline, which run as ' || o.rolname || '.',
    case
        when c.relforcerowsecurity then 'alter table ' || c.oid::regclass || ' no force row level security;'
        else 'alter role ' || quote_ident(o.rolname) || ' bypassrls;'
    end
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join (
    select distinct f.proowner
    from pg_catalog.pg_proc as f
    where f.prosecdef
        and (
            f.pronamespace = to_regnamespace('import_pipeline')
            or (
                f.oid = to_regprocedure('public.get_import_counts(uuid)')
                and to_regnamespace('import_pipeline') is not null
            )
        )
) as functions on true
join pg_catalog.pg_roles as o on o.oid = functions.proowner
where c.relrowsecurity
    and not o.rolsuper
    and not o.rolbypassrls
    and (c.relforcerowsecurity or not pg_has_role(o.oid, c.relowner, 'usage'))
    and (
        n.nspname = 'import_pipeline'
        or n.nspname || '.' || c.relname in (
            'auth.users', 'public.bank_memberships', 'public.vaults', 'public.recordings', 'public.import_sources',
            'public.import_items', 'public.sync_jobs'
        )
    )
    and c.relkind in ('r', 'p')
order by 2
