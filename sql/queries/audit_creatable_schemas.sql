-- Returns the schemas in which everybody, or a role of an API, may create functions, operators and types: whoever looks
-- names up there can be made to run them.
select
    'warning',
    'schema ' || quote_ident(n.nspname),
    grantees.names || ' may create functions and operators in it, which others can then be made to run.',
    'revoke create on schema ' || quote_ident(n.nspname) || ' from ' || grantees.names || ';'
from pg_catalog.pg_namespace as n
cross join lateral (
    select string_agg(grantee.name, ', ' order by grantee.name) as names
    from (
        select distinct case when a.grantee = 0 then 'public' else r.rolname::text end as name
        from aclexplode(n.nspacl) as a
        left join pg_catalog.pg_roles as r on r.oid = a.grantee
        where a.privilege_type = 'CREATE' and (a.grantee = 0 or r.rolname in ('anon', 'authenticated'))
    ) as grantee
) as grantees
where n.oid = any (%(schemas)s::oid[]) and grantees.names is not null
order by 2
