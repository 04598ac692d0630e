-- Returns the tables of the audited schemas whose rows no policy guards. Row-level security without any policy is no
-- finding: then nobody sees anything.
select
    case when api.may or has_table_privilege('public', c.oid, p.privileges) then 'danger' else 'warning' end,
    'table ' || c.oid::regclass,
    'Row-level security is off'
        || case
            when has_table_privilege('public', c.oid, p.privileges) then ', and everybody has privileges on it'
            when api.may then ', and ' || api.roles || ' may reach it'
            else ', so the first grant opens all of it'
        end
        || case
            when exists (select from pg_catalog.pg_policy as y where y.polrelid = c.oid)
                then '; its policies do nothing.'
            else '.'
        end,
    'alter table ' || c.oid::regclass || ' enable row level security;'
from pg_catalog.pg_class as c
cross join (values ('select, insert, update, delete, truncate')) as p (privileges)
cross join lateral (
    select true as may, string_agg(r.rolname, ' and ' order by r.rolname) as roles
    from pg_catalog.pg_roles as r
    where r.rolname in ('anon', 'authenticated')
        and (
            has_table_privilege(r.oid, c.oid, p.privileges)
            or has_any_column_privilege(r.oid, c.oid, 'select, insert, update')
        )
    having count(*) > 0
    union all
    select false, null
    order by 1 desc
    limit 1
) as api
where c.relkind in ('r', 'p')
    and not c.relrowsecurity
    and c.relnamespace = any (%(schemas)s::oid[])
    and not exists (
        select
        from pg_catalog.pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
order by 1, 2
