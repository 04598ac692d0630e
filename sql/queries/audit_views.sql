-- Returns what shows rows past the policies of the tables behind it, to roles of an API or to everybody: views with
-- their owner's rights, and materialised views and foreign tables, which know no policies.
select
    'danger',
    case c.relkind when 'v' then 'view ' when 'm' then 'materialized view ' else 'foreign table ' end
        || c.oid::regclass,
    case
        when c.relkind = 'v' then 'Reads with the rights of its owner, past the policies'
        else 'Knows no policies'
    end || '; ' || reached.roles || ' may reach it.',
    case
        when c.relkind = 'v' then 'alter view ' || c.oid::regclass || ' set (security_invoker = true);'
        else 'revoke all on ' || c.oid::regclass || ' from public, anon, authenticated;'
    end
from pg_catalog.pg_class as c
cross join lateral (
    select string_agg(r.name, ' and ' order by r.name) as roles
    from (
        select 'public' as name
        union all
        select rolname::text from pg_catalog.pg_roles where rolname in ('anon', 'authenticated')
    ) as r
    where has_table_privilege(r.name, c.oid, 'select, insert, update, delete')
        or has_any_column_privilege(r.name, c.oid, 'select, insert, update')
) as reached
where c.relkind in ('v', 'm', 'f')
    and c.relnamespace = any (%(schemas)s::oid[])
    and reached.roles is not null
    and not coalesce(
        (
            select o.option_value::boolean
            from pg_options_to_table(c.reloptions) as o
            where o.option_name = 'security_invoker'
        ),
        false
    )
    and not exists (
        select
        from pg_catalog.pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
order by 2
