-- Returns what anybody but its owner and import_worker may do in the private schema import_pipeline, now or with
-- objects that are created later.
select
    case when given.kind = 'default' then 'warning' else 'danger' end,
    given.object,
    given.grantee || ' has ' || string_agg(distinct lower(given.privilege), ', ' order by lower(given.privilege))
        || ' here; only import_worker needs that.',
    case
        when given.kind = 'default' then given.remedy
        else 'revoke all on ' || given.object || ' from ' || given.grantee || ';'
    end
from (
    select
        'object' as kind,
        'schema import_pipeline' as object,
        a.grantee as grantee_id,
        a.privilege_type as privilege,
        null as remedy
    from pg_catalog.pg_namespace as n
    cross join lateral aclexplode(n.nspacl) as a
    where n.nspname = 'import_pipeline' and a.grantee <> n.nspowner
    union all
    select
        'object',
        case when c.relkind = 'S' then 'sequence ' else 'table ' end || c.oid::regclass,
        a.grantee,
        a.privilege_type,
        null
    from pg_catalog.pg_class as c
    cross join lateral (
        select acl.grantee, acl.privilege_type from aclexplode(c.relacl) as acl
        union
        select acl.grantee, acl.privilege_type
        from pg_catalog.pg_attribute as attribute
        cross join lateral aclexplode(attribute.attacl) as acl
        where attribute.attrelid = c.oid
    ) as a
    where c.relnamespace = to_regnamespace('import_pipeline') and a.grantee <> c.relowner
    union all
    select 'object', 'function ' || f.oid::regprocedure, a.grantee, a.privilege_type, null
    from pg_catalog.pg_proc as f
    cross join lateral aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) as a
    where f.pronamespace = to_regnamespace('import_pipeline') and a.grantee <> f.proowner
    union all
    select
        'default',
        'default privileges of ' || quote_ident(o.rolname) || ' for ' || objects.name,
        a.grantee,
        a.privilege_type,
        'alter default privileges for role ' || quote_ident(o.rolname)
            || case when d.defaclnamespace = 0 then '' else ' in schema import_pipeline' end
            || ' revoke all on ' || objects.name || ' from '
            || coalesce((select quote_ident(r.rolname) from pg_catalog.pg_roles as r where r.oid = a.grantee), 'public')
            || ';'
    from pg_catalog.pg_default_acl as d
    join pg_catalog.pg_roles as o on o.oid = d.defaclrole
    join (values ('r', 'tables'), ('S', 'sequences'), ('f', 'functions')) as objects (letter, name)
        on objects.letter = d.defaclobjtype::text
    cross join lateral aclexplode(d.defaclacl) as a
    where to_regnamespace('import_pipeline') is not null
        and (
            d.defaclnamespace = to_regnamespace('import_pipeline')
            -- Those of no schema are the default in every one, for objects of whoever owns this one.
            or (
                d.defaclnamespace = 0
                and d.defaclrole = (
                    select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'import_pipeline'
                )
            )
        )
        and a.grantee <> d.defaclrole
        -- That everybody may execute new functions is what PostgreSQL does without being told.
        and not (d.defaclobjtype = 'f' and d.defaclnamespace = 0 and a.grantee = 0)
) as granted
cross join lateral (
    select
        granted.kind, granted.object, granted.privilege, granted.remedy,
        case
            when granted.grantee_id = 0 then 'public'
            else (select quote_ident(r.rolname) from pg_catalog.pg_roles as r where r.oid = granted.grantee_id)
        end as grantee
) as given
where given.grantee is distinct from 'import_worker'
group by given.kind, given.object, given.grantee, given.remedy
order by 1, 2
