-- Returns a finding if the login of this session is more than the importer's needs to be; none before the first
-- migration.
select
    'warning',
    'role ' || quote_ident(r.rolname),
    'The importer logs in as a role that can do more than importing: code that a trigger runs in its session has all of it.',
    'alter role import_login password ''…'';  -- then DATABASE_URL names it, and IMPORT_PIPELINE_MIGRATION_URL the owner'
from pg_catalog.pg_roles as r
where r.rolname = session_user
    and exists (select from pg_catalog.pg_roles where rolname = 'import_worker')
    and to_regnamespace('import_pipeline') is not null
    and (
        r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication
        or exists (
            select
            from pg_catalog.pg_auth_members as m
            join pg_catalog.pg_roles as g on g.oid = m.roleid
            where m.member = r.oid and (g.rolname <> 'import_worker' or m.admin_option)
        )
        or exists (
            select
            from pg_catalog.pg_class as c
            join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
            where n.nspname in ('public', 'auth', 'import_pipeline') and c.relowner = r.oid
        )
    )
