-- describe_owners_objects: Returns what the owner has, one row per object with its definition: of the given tables all
-- there is, and of the rest of his database what migrations could add to. Run with an empty search_path, so that every
-- name is spelt out.
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

-- describe_schema: Returns what import_pipeline put into this database, one row per object with its definition, for
-- those who look for changes made by hand. Run with an empty search_path, so that every name is spelt out. The owner's
-- own objects, and what he grants to roles of his own, are not looked at.
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

-- find_owners_tables: Returns the tables under the names of a call library that were here before us: each that we made
-- has a policy of ours, and the schema auth a comment.
select c.oid
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p')
    and (
        (
            n.nspname = 'public'
            and c.relname in (
                'banks', 'bank_memberships', 'vaults', 'vault_memberships', 'recordings', 'vault_entries', 'sync_jobs',
                'import_sources'
            )
            and not exists (
                select
                from pg_catalog.pg_policy as p
                where p.polrelid = c.oid
                    and p.polname in (
                        'Members see their banks', 'Users see their own memberships of banks',
                        'Members see their vaults', 'Users see their own memberships of vaults',
                        'Members see their bank''s recordings', 'Members see their vaults'' entries',
                        'Users see their sync jobs', 'Users see their sources'
                    )
            )
        )
        or (
            n.nspname = 'auth'
            and c.relname = 'users'
            and obj_description(n.oid, 'pg_namespace') is distinct from
                'Users and claims, named and shaped as on Supabase.'
        )
    )

-- find_planted_triggers: Returns the triggers on tables of the library whose functions belong to whoever comes through
-- an API, or to the session of somebody who is logged in now, each with its table and the function's owner.
select t.tgname, c.relname, r.rolname
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as s on s.oid = c.relnamespace
join pg_catalog.pg_proc as f on f.oid = t.tgfoid
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
join pg_catalog.pg_roles as r on r.oid = f.proowner
where not t.tgisinternal
    and s.nspname || '.' || c.relname in (
        'public.recordings', 'public.vault_entries', 'public.sync_jobs', 'public.import_sources', 'public.import_items'
    )
    and (n.nspname ~ '^pg_temp' or r.rolname in ('anon', 'authenticated', 'authenticator'))
order by 2, 1
limit 1

-- judge_login: Returns a finding if the login of this session is more than the importer's needs to be; none before the
-- first migration.
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
