-- Returns what import_pipeline put into this database, one row per object with its definition, for those who look for
-- changes made by hand. Run with an empty search_path, so that every name is spelt out. The owner's own objects, and
-- what he grants to roles of his own, are not looked at.
with our_tables as (
    select c.oid
    from pg_catalog.pg_class as c
    where c.relkind = 'r'
        and (c.relnamespace = to_regnamespace('import_pipeline') or c.oid = to_regclass('public.import_items'))
),
shared_tables as (
    select c.oid
    from pg_catalog.pg_class as c
    where c.oid in (
        to_regclass('public.banks'), to_regclass('public.bank_memberships'), to_regclass('public.vaults'),
        to_regclass('public.recordings'), to_regclass('public.vault_entries'), to_regclass('public.sync_jobs'),
        to_regclass('public.import_sources')
    )
),
our_functions as (
    select p.oid
    from pg_catalog.pg_proc as p
    where p.pronamespace = to_regnamespace('import_pipeline')
        or (
            p.oid = to_regprocedure('public.get_import_counts(uuid)')
            -- Ours, and not the owner's of that name.
            and obj_description(p.oid, 'pg_proc') like 'How many recordings a user has of each source; %'
        )
),
watched_roles as (
    select oid, rolname from pg_catalog.pg_roles
    where rolname in ('import_worker', 'anon', 'authenticated', 'service_role')
    union all
    select 0, 'public'
),
worker as (
    select oid from watched_roles where rolname = 'import_worker'
)
select
    format('table %s', t.oid::regclass) as object,
    case when c.relrowsecurity then 'row-level security on' else 'row-level security off' end
        || case when c.relforcerowsecurity then ', forced' else '' end as definition
from our_tables as t
join pg_catalog.pg_class as c on c.oid = t.oid
union all
select
    format('column %s.%s', a.attrelid::regclass, a.attname),
    format_type(a.atttypid, a.atttypmod)
        || case when a.attnotnull then ' not null' else '' end
        || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
from pg_catalog.pg_attribute as a
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attnum > 0
    and not a.attisdropped
    and (
        a.attrelid in (select oid from our_tables)
        or (a.attrelid = to_regclass('public.sync_jobs') and a.attname = 'skipped_count')
    )
union all
select format('constraint %s on %s', c.conname, c.conrelid::regclass), pg_get_constraintdef(c.oid)
from pg_catalog.pg_constraint as c
where c.conrelid in (select oid from our_tables)
    and c.contype in ('p', 'u', 'c', 'f')
union all
select
    format('index %s', i.indexrelid::regclass),
    pg_get_indexdef(i.indexrelid) || case when i.indisvalid then '' else ' (invalid)' end
from pg_catalog.pg_index as i
where i.indrelid in (select oid from our_tables)
    or i.indexrelid = to_regclass('public.recordings_import_key')
union all
select
    format('policy "%s" on %s', p.polname, p.polrelid::regclass),
    concat_ws(
        ' ',
        case when p.polpermissive then 'permissive' else 'restrictive' end,
        p.polcmd::text,
        array(select r.rolname::text from watched_roles as r where r.oid = any (p.polroles) order by 1)::text,
        'using ' || pg_get_expr(p.polqual, p.polrelid),
        'check ' || pg_get_expr(p.polwithcheck, p.polrelid)
    )
from pg_catalog.pg_policy as p
where (p.polrelid in (select oid from our_tables) and p.polroles && array(select oid from watched_roles))
    or (p.polrelid in (select oid from shared_tables) and p.polroles && array(select oid from worker))
    or (
        p.polrelid = to_regclass('public.import_sources')
        and p.polname in (
            'Users see their sources', 'Users add their sources', 'Users update their sources',
            'Users delete their sources'
        )
    )
union all
select format('trigger %s on %s', t.tgname, t.tgrelid::regclass), pg_get_triggerdef(t.oid)
from pg_catalog.pg_trigger as t
where t.tgrelid in (select oid from our_tables)
    and not t.tgisinternal
union all
select
    format('function %s', p.oid::regprocedure),
    concat_ws(
        ' ',
        pg_get_function_result(p.oid),
        p.provolatile::text,
        case when p.prosecdef then 'definer' else 'invoker' end,
        p.proconfig::text,
        md5(p.prosrc)
    )
from our_functions as f
join pg_catalog.pg_proc as p on p.oid = f.oid
union all
select
    format('grant on %s to %s', g.object, g.grantee),
    string_agg(g.privilege, ', ' order by g.privilege)
from (
    select c.oid::regclass::text as object, r.rolname as grantee, a.privilege_type as privilege
    from pg_catalog.pg_class as c
    cross join lateral aclexplode(c.relacl) as a
    join watched_roles as r on r.oid = a.grantee
    where c.oid in (select oid from our_tables)
        or (c.oid in (select oid from shared_tables) and a.grantee = (select oid from worker))
    union
    select p.oid::regprocedure::text, r.rolname, a.privilege_type
    from our_functions as f
    join pg_catalog.pg_proc as p on p.oid = f.oid
    cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
    join watched_roles as r on r.oid = a.grantee
    union
    select format('schema %s', n.nspname), r.rolname, a.privilege_type
    from pg_catalog.pg_namespace as n
    cross join lateral aclexplode(n.nspacl) as a
    join watched_roles as r on r.oid = a.grantee
    where n.nspname = 'import_pipeline'
) as g
group by g.object, g.grantee
order by 1
