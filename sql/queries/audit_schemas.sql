-- Returns the schemas that an audit looks into: ours, and whatever an API's roles may reach. Left out are those that
-- the platform keeps: their objects are not the owner's to change.
select n.oid
from pg_catalog.pg_namespace as n
join pg_catalog.pg_roles as o on o.oid = n.nspowner
where n.nspname !~ '^pg_'
    and n.nspname not in ('information_schema', 'extensions')
    and o.rolname !~ '^(supabase_|pgbouncer$)'
    and (
        n.nspname in ('public', 'auth', 'import_pipeline')
        or has_schema_privilege('public', n.oid, 'usage')
        or exists (
            select
            from pg_catalog.pg_roles as r
            where r.rolname in ('anon', 'authenticated') and has_schema_privilege(r.oid, n.oid, 'usage')
        )
    )
