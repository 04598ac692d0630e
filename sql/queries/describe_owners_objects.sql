-- Returns what the owner has, one row per object with its definition: of the given tables all there is, and of the rest of
-- his database what migrations could add to. Run with an empty search_path, so that every name is spelt out.
with theirs as (
    select c.oid::regclass as name, c.*
    from pg_catalog.pg_class as c
    where c.oid = any(%(tables)s::oid[])
)
select
    format('table %%s', t.name) as object,
    concat_ws(
        ', ', 'owner ' || t.relowner::regrole,
        'row-level security ' || case when t.relrowsecurity then 'on' else 'off' end,
        case when t.relforcerowsecurity then 'forced' end
    ) as definition
from theirs as t
union all
select format('table %%s', c.oid::regclass), ''
from pg_catalog.pg_class as c
where c.relnamespace = 'public'::regnamespace
    and c.relkind in ('r', 'p', 'v', 'm', 'f')
    and c.oid <> all(%(tables)s::oid[])
union all
select
    format('column %%s.%%s', t.name, a.attname),
    concat_ws(
        ' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
        'default ' || pg_get_expr(d.adbin, d.adrelid), a.attacl::text
    )
from theirs as t
join pg_catalog.pg_attribute as a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
union all
select format('constraint %%s on %%s', c.conname, t.name), pg_get_constraintdef(c.oid)
from theirs as t
join pg_catalog.pg_constraint as c on c.conrelid = t.oid
union all
select format('index %%s on %%s', i.indexrelid::regclass, t.name), pg_get_indexdef(i.indexrelid)
from theirs as t
join pg_catalog.pg_index as i on i.indrelid = t.oid
union all
select format('trigger %%s on %%s', g.tgname, t.name), pg_get_triggerdef(g.oid) || g.tgenabled::text
from theirs as t
join pg_catalog.pg_trigger as g on g.tgrelid = t.oid and not g.tgisinternal
union all
select
    format('policy "%%s" on %%s', p.polname, t.name),
    concat_ws(
        ' ', case when p.polpermissive then 'permissive' else 'restrictive' end,
        'for ' || case p.polcmd
            when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all'
        end,
        'to ' || array_to_string(
            array(select case role when 0 then 'public' else role::regrole::text end from unnest(p.polroles) as role), ', '
        ),
        'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid)
    )
from theirs as t
join pg_catalog.pg_policy as p on p.polrelid = t.oid
union all
select
    format('function %%s', f.oid::regprocedure),
    concat_ws(
        ' ', 'owner ' || f.proowner::regrole, l.lanname, f.provolatile::text, pg_get_function_result(f.oid),
        case when f.prosecdef then 'security definer' end, f.proconfig::text, 'body ' || md5(f.prosrc)
    )
from pg_catalog.pg_proc as f
join pg_catalog.pg_language as l on l.oid = f.prolang
where f.pronamespace in ('public'::regnamespace, to_regnamespace('auth'))
union all
select
    format('rights of %%s on %%s', case g.grantee when 0 then 'public' else g.grantee::regrole::text end, g.object),
    string_agg(
        distinct lower(g.privilege_type) || case when g.is_grantable then ' (may grant it)' else '' end, ', '
    )
from (
    select t.name::text as object, a.*
    from theirs as t
    cross join lateral aclexplode(coalesce(t.relacl, acldefault('r', t.relowner))) as a
    union all
    select 'function ' || f.oid::regprocedure, a.*
    from pg_catalog.pg_proc as f
    cross join lateral aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) as a
    where f.pronamespace in ('public'::regnamespace, to_regnamespace('auth'))
    union all
    select 'schema ' || quote_ident(n.nspname), a.*
    from pg_catalog.pg_namespace as n
    cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as a
    where n.nspname !~ '^(pg_|information_schema$|import_pipeline$)'
) as g
group by g.object, g.grantee
union all
select format('role %%s', r.rolname), concat_ws(
    ' ', case when r.rolcanlogin then 'login' else 'nologin' end, case when r.rolsuper then 'superuser' end,
    case when r.rolbypassrls then 'bypassrls' end, case when r.rolcreaterole then 'createrole' end
)
from pg_catalog.pg_roles as r
where r.rolname in ('anon', 'authenticated', 'service_role') or r.rolname like 'import\_%%'
