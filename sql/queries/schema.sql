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

-- find_known: Returns the triggers that were there when the database was migrated (null: not written down), and the
-- roles in vaults that the importer does not know.
select import_pipeline.known_triggers(), import_pipeline.unknown_vault_roles()

-- find_lock_holder: Returns the process that holds an advisory lock with a key of 64 bits, its login, the name of its
-- program, and since when it is connected, as far as this login may know it.
select l.pid, a.usename, a.application_name, a.backend_start
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'advisory'
    and l.granted
    and l.objsubid = 1
    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
    and (l.classid::pg_catalog.int8 << 32) | l.objid::pg_catalog.int8 = %(key)s
limit 1

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

-- find_planted_triggers: Returns the triggers that would run code of strangers where the importer writes, as findings
-- of the audit: on the tables that imports write, and on the given ones, functions of a session and of strangers; on
-- any other table, which a trigger of the owner's may write, those of strangers who come through an API. No strangers
-- are superusers, the owners of the database and of the recordings, the role that migrated, roles whose rights these
-- have, and Supabase's own; on a table that imports write, its owner. Types and tables are spelt out: a pooled session
-- may have temporary ones of another client.
with trusting as (
    select d.datdba as oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()
    union
    select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'import_pipeline'
    union
    select c.relowner
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'public' and c.relname = 'recordings'
),
imported as (
    select c.oid, c.relowner
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'import_pipeline'
        or (
            n.nspname = 'public'
            and c.relname in ('recordings', 'vault_entries', 'sync_jobs', 'import_sources', 'import_items')
        )
),
triggers as (
    select
        pg_catalog.format('trigger %%I on %%I.%%I', t.tgname, s.nspname, c.relname) as object,
        pg_catalog.format('%%I.%%I()', n.nspname, f.proname) as function,
        i.oid is not null or s.nspname || '.' || c.relname = any (%(tables)s::pg_catalog.text[]) as is_written,
        n.nspname ~ '^pg_temp_' as is_temporary,
        f.proowner as role,
        r.rolname,
        r.rolsuper or coalesce(f.proowner = i.relowner, false) as is_trusted,
        f.proowner = c.relowner as is_his,
        r.rolname in ('anon', 'authenticated', 'authenticator', 'service_role', 'import_worker', 'import_login') as is_low
    from pg_catalog.pg_trigger as t
    join pg_catalog.pg_class as c on c.oid = t.tgrelid
    join pg_catalog.pg_namespace as s on s.oid = c.relnamespace
    join pg_catalog.pg_proc as f on f.oid = t.tgfoid
    join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
    join pg_catalog.pg_roles as r on r.oid = f.proowner
    left join imported as i on i.oid = t.tgrelid
    where not t.tgisinternal and s.nspname !~ '^pg_temp_'
)
select
    'danger' as severity,
    t.object,
    case
        when t.is_temporary then 'Runs a temporary function of ' || t.rolname || '''s session.'
        else 'Runs ' || t.function || ', which belongs to ' || t.rolname || ' and not to the owner of the table.'
    end as problem,
    'drop ' || t.object || ';' as remedy
from triggers as t
where (t.is_written and t.is_temporary)
    or (
        not t.is_trusted
        and (
            t.is_written
            or (
                not t.is_his  -- what writes to a stranger's table trusts them
                and (
                    t.is_temporary
                    or t.is_low
                    or exists (
                        select
                        from pg_catalog.pg_roles as api
                        where api.rolname in ('anon', 'authenticated')
                            and pg_catalog.pg_has_role(t.role, api.oid, 'member')
                    )
                )
            )
        )
        and (
            t.is_low
            or not (
                t.rolname = 'pg_database_owner'
                or t.rolname ~ '^supabase_'
                or exists (
                    select
                    from trusting as w
                    join pg_catalog.pg_roles as o on o.oid = w.oid
                    -- Of a superuser it would be said that they have the rights of everybody.
                    where w.oid = t.role or (not o.rolsuper and pg_catalog.pg_has_role(w.oid, t.role, 'usage'))
                )
            )
        )
    )
order by 2

-- has_functions: Returns whether this database has the functions that audits ask; it has not before it was migrated to
-- this version.
select count(*) = 2
from pg_catalog.pg_proc as f
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
where n.nspname = 'import_pipeline' and f.proname in ('known_triggers', 'unknown_vault_roles')

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

-- list_triggers: Returns the triggers on these tables, each with the function that it runs.
select
    pg_catalog.format('trigger %%I on %%I.%%I', t.tgname, s.nspname, c.relname),
    pg_catalog.format('%%I.%%I()', n.nspname, f.proname)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as s on s.oid = c.relnamespace
join pg_catalog.pg_proc as f on f.oid = t.tgfoid
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
where not t.tgisinternal and s.nspname || '.' || c.relname = any (%(tables)s::pg_catalog.text[])
order by 1

-- lock_for_writing: Keep others from making triggers on these tables until the end of the transaction; others may
-- write, and we wait for nobody who does.
lock table {tables} in row exclusive mode

-- note_triggers: Notes in the newest row of the history which triggers are there now.
update import_pipeline.schema_migrations
set objects = jsonb_set(objects, '{triggers}', %(triggers)s)
where version = (
        select version from import_pipeline.schema_migrations order by applied_at desc, version desc limit 1
    )
    and objects -> 'triggers' is distinct from %(triggers)s

-- refuse_planted_triggers: Fails if there is a planted trigger, since its name is no number: the server passes over
-- what was sent behind this.
select pg_catalog.string_agg(p.object, ', ')::pg_catalog.int4
from (
{planted}
) as p
