-- audit_blinded_functions: Returns the tables whose rows policies hide from our own functions, because they are forced
-- or the functions have another owner: these functions would find nothing, without an error.
select
    'danger',
    'table ' || c.oid::regclass,
    'Its policies hide rows from the functions of import_pipeline, which run as ' || o.rolname || '.',
    case
        when c.relforcerowsecurity then 'alter table ' || c.oid::regclass || ' no force row level security;'
        else 'alter role ' || quote_ident(o.rolname) || ' bypassrls;'
    end
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join (
    select distinct f.proowner
    from pg_catalog.pg_proc as f
    where f.prosecdef
        and (
            f.pronamespace = to_regnamespace('import_pipeline')
            or (
                f.oid = to_regprocedure('public.get_import_counts(uuid)')
                and to_regnamespace('import_pipeline') is not null
            )
        )
) as functions on true
join pg_catalog.pg_roles as o on o.oid = functions.proowner
where c.relrowsecurity
    and not o.rolsuper
    and not o.rolbypassrls
    and (c.relforcerowsecurity or not pg_has_role(o.oid, c.relowner, 'usage'))
    and (
        n.nspname = 'import_pipeline'
        or n.nspname || '.' || c.relname in (
            'auth.users', 'public.bank_memberships', 'public.vaults', 'public.recordings', 'public.import_sources',
            'public.import_items', 'public.sync_jobs'
        )
    )
    and c.relkind in ('r', 'p')
order by 2

-- audit_creatable_schemas: Returns the schemas in which everybody, or a role of an API, may create functions, operators
-- and types: whoever looks names up there can be made to run them.
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

-- audit_definer_callers: Returns the functions with their owner's rights that everybody or anon may execute. Functions
-- of triggers cannot be called, whatever is granted.
select
    'danger',
    'function ' || f.oid::regprocedure,
    'Runs with the rights of its owner, and '
        || case when has_function_privilege('public', f.oid, 'execute') then 'everybody' else 'anon' end
        || ' may execute it.',
    'revoke execute on function ' || f.oid::regprocedure || ' from '
        || concat_ws(
            ', ', 'public', (select r.rolname from pg_catalog.pg_roles as r where r.rolname = 'anon')
        ) || ';'
from pg_catalog.pg_proc as f
where f.prosecdef
    and f.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
    and f.pronamespace = any (%(schemas)s::oid[])
    and (
        has_function_privilege('public', f.oid, 'execute')
        or exists (
            select
            from pg_catalog.pg_roles as r
            where r.rolname = 'anon' and has_function_privilege(r.oid, f.oid, 'execute')
        )
    )
    and not exists (
        select
        from pg_catalog.pg_depend as d
        where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e'
    )
order by 2

-- audit_definer_paths: Returns the functions with their owner's rights whose names are looked up where others may put
-- something. Empty is the only path that nobody can write to. The schema of temporary objects is searched first, for
-- types and tables, unless it is named: of our own functions it is asked that they name it last.
select
    case when path.setting is null then 'danger' else 'warning' end,
    'function ' || f.oid::regprocedure,
    case
        when path.setting is null then
            'Runs with the rights of its owner, and looks names up in the search_path of whoever calls it.'
        when path.named is not null then
            'Runs with the rights of its owner, and looks names up in ' || path.named
            || ': whoever may create something there can steer it.'
        else
            'Runs with the rights of its owner, and looks types up among the caller''s temporary ones first.'
    end,
    'alter function ' || f.oid::regprocedure || ' set search_path = '''', pg_temp;'
        || case when path.setting is null or path.named is not null then '  -- spell out every name first' else '' end
from pg_catalog.pg_proc as f
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
cross join lateral (
    select
        min(c.setting) as setting,
        string_agg(btrim(entry, ' "'), ', ') filter (
            where btrim(entry, ' "') not in ('', 'pg_catalog', 'pg_temp')
        ) as named,
        bool_or(c.setting ~ ',\s*pg_temp\s*$') as has_temporary_last
    from unnest(f.proconfig) as config (entry_)
    cross join lateral (select substr(config.entry_, length('search_path=') + 1) as setting) as c
    cross join lateral string_to_table(c.setting, ',') as entry
    where config.entry_ like 'search\_path=%%'
) as path
where f.prosecdef
    and f.pronamespace = any (%(schemas)s::oid[])
    and (
        path.setting is null
        or path.named is not null
        or (
            not path.has_temporary_last
            and (n.nspname = 'import_pipeline' or f.oid = to_regprocedure('public.get_import_counts(uuid)'))
        )
    )
    and not exists (
        select
        from pg_catalog.pg_depend as d
        where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e'
    )
order by 1, 2

-- audit_foreign_owners: Returns what our policies and functions trust although it belongs to others than who migrated
-- (or, asked by him, migrates), the owner of the database, superusers, and roles that nobody can be. The first
-- migration asks the same.
with trusting as (
    select w.oid, w.rolsuper
    from pg_catalog.pg_roles as w
    where w.oid = (select d.datdba from pg_catalog.pg_database as d where d.datname = current_database())
        or w.oid = coalesce(
            (
                select n.nspowner
                from pg_catalog.pg_namespace as n
                where n.nspname = 'import_pipeline' and not %(migrates)s::boolean
            ),
            current_user::regrole
        )
),
trusted as (
    select 'schema ' || n.nspname as name, n.nspowner as owner, n.nspname
    from pg_catalog.pg_namespace as n
    where n.nspname in ('public', 'auth', 'import_pipeline')
    union all
    select
        case when c.relkind in ('r', 'p') then 'table ' else 'view ' end || c.oid::regclass, c.relowner, n.nspname
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
        and (
            n.nspname = 'import_pipeline'
            or n.nspname || '.' || c.relname in (
                'auth.users', 'public.banks', 'public.bank_memberships', 'public.vaults', 'public.vault_memberships',
                'public.recordings', 'public.vault_entries', 'public.sync_jobs', 'public.import_sources',
                'public.import_items'
            )
        )
    union all
    select 'function ' || f.oid::regprocedure, f.proowner, n.nspname
    from pg_catalog.pg_proc as f
    join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
    where n.nspname = 'import_pipeline'
        or (n.nspname = 'public' and f.proname = 'get_import_counts')
        or (n.nspname = 'auth' and f.proname in ('uid', 'role', 'jwt'))
)
select
    'danger',
    t.name,
    'Belongs to ' || r.rolname || ', who can change what our policies trust.',
    'alter ' || t.name || ' owner to '
        || quote_ident((
            select o.rolname
            from pg_catalog.pg_roles as o
            join pg_catalog.pg_database as d on d.datdba = o.oid
            where d.datname = current_database()
        )) || ';  -- look at what is there first'
from trusted as t
join pg_catalog.pg_roles as r on r.oid = t.owner
where not r.rolsuper
    and r.rolname <> 'pg_database_owner'
    and (
        r.rolname in ('anon', 'authenticated', 'service_role', 'import_worker', 'import_login')
        or not (
            exists (
                select
                from trusting as w
                -- Of a superuser it would be said that he has the rights of everybody.
                where w.oid = r.oid or (not w.rolsuper and pg_has_role(w.oid, r.oid, 'usage'))
            )
            or (t.nspname = 'auth' and r.rolname ~ '^supabase_')
            or not (
                r.rolcanlogin or exists (select from pg_catalog.pg_auth_members as m where m.roleid = r.oid)
            )
        )
    )
order by 2

-- audit_foreign_triggers: Returns the rules on tables that the importer writes, the triggers on tables of
-- import_pipeline's, and the event triggers of others than who migrated: their code runs in the importer's sessions,
-- with the importer's rights. And whether roles of an API may create triggers there, or do what else no policy binds.
-- Of triggers with code of strangers it is asked by `find_planted_triggers`, whose findings come before these.
with written as (
    select c.oid, c.relowner, n.nspname = 'import_pipeline' or c.relname = 'import_items' as is_ours
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p')
        and (
            n.nspname = 'import_pipeline'
            or n.nspname || '.' || c.relname = any (%(tables)s)
        )
)
select
    'danger' as severity,
    'trigger ' || quote_ident(t.tgname) || ' on ' || w.oid::regclass as object,
    'Is not of import_pipeline, whose table this is: it runs ' || t.tgfoid::regprocedure || '.' as problem,
    'drop trigger ' || quote_ident(t.tgname) || ' on ' || w.oid::regclass || ';' as remedy
from written as w
join pg_catalog.pg_trigger as t on t.tgrelid = w.oid and not t.tgisinternal
where w.is_ours
union all
select
    'danger',
    'rule ' || quote_ident(y.rulename) || ' on ' || w.oid::regclass,
    'Puts other statements in the place of the importer''s.',
    'drop rule ' || quote_ident(y.rulename) || ' on ' || w.oid::regclass || ';'
from written as w
join pg_catalog.pg_rewrite as y on y.ev_class = w.oid
union all
select
    'warning',
    'event trigger ' || quote_ident(e.evtname),
    'Runs ' || f.oid::regprocedure || ' of ' || r.rolname || ', who is no superuser, when somebody migrates.',
    'drop event trigger ' || quote_ident(e.evtname) || ';'
from pg_catalog.pg_event_trigger as e
join pg_catalog.pg_proc as f on f.oid = e.evtfoid
join pg_catalog.pg_roles as r on r.oid = f.proowner
where not r.rolsuper
    and r.oid is distinct from (
        select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'import_pipeline'
    )
union all
select
    'danger',
    'table ' || given.oid::regclass,
    given.grantees || ' may ' || given.privileges || ' here, which no policy binds: code of theirs then runs where the '
        || 'importer writes.',
    'revoke ' || given.privileges || ' on ' || given.oid::regclass || ' from ' || given.grantees || ';'
from (
    select
        w.oid,
        string_agg(distinct coalesce(r.rolname::text, 'public'), ', ') as grantees,
        string_agg(distinct lower(acl.privilege_type), ', ') as privileges
    from written as w
    join pg_catalog.pg_class as c on c.oid = w.oid
    cross join lateral aclexplode(c.relacl) as acl
    left join pg_catalog.pg_roles as r on r.oid = acl.grantee
    where acl.privilege_type in ('TRIGGER', 'REFERENCES', 'TRUNCATE')
        and (acl.grantee = 0 or r.rolname in ('anon', 'authenticated'))
    group by w.oid
) as given
order by 1, 2, 3

-- audit_login_role: Returns what import_login is or may that the importer's login must not: anything but becoming
-- import_worker.
with login as (
    select * from pg_catalog.pg_roles where rolname = 'import_login'
)
select
    'danger',
    'role import_login',
    'Has the attribute ' || attribute.name || '.',
    'alter role import_login ' || attribute.remedy || ';'
from login
cross join lateral (
    values
        ('superuser', rolsuper, 'nosuperuser'), ('bypassrls', rolbypassrls, 'nobypassrls'),
        ('createrole', rolcreaterole, 'nocreaterole'), ('createdb', rolcreatedb, 'nocreatedb'),
        ('replication', rolreplication, 'noreplication'), ('inherit', rolinherit, 'noinherit')
) as attribute (name, is_set, remedy)
where attribute.is_set
union all
select
    'danger',
    'role import_login',
    case
        when g.rolname = 'import_worker' then 'May make others members of import_worker.'
        else 'Is a member of ' || quote_ident(g.rolname) || ', and may act as it.'
    end,
    case
        when g.rolname = 'import_worker' then 'revoke admin option for import_worker from import_login;'
        else 'revoke ' || quote_ident(g.rolname) || ' from import_login;'
    end
from login
join pg_catalog.pg_auth_members as m on m.member = login.oid
join pg_catalog.pg_roles as g on g.oid = m.roleid
where g.rolname <> 'import_worker' or m.admin_option
union all
select
    'warning',
    'role import_login',
    'May not act as import_worker, so nothing can be imported with it.',
    'grant import_worker to import_login;'
from login
where exists (select from pg_catalog.pg_roles where rolname = 'import_worker')
    and not pg_has_role(login.oid, 'import_worker', 'member')
union all
select
    'danger',
    pg_describe_object(s.classid, s.objid, s.objsubid),
    case s.deptype when 'o' then 'Belongs to import_login, which may own nothing.' else 'Is open to import_login.' end,
    case s.deptype when 'o' then null else 'drop owned by import_login;' end
from login
join pg_catalog.pg_shdepend as s
    on s.refclassid = 'pg_authid'::regclass
    and s.refobjid = login.oid
    and s.deptype in ('o', 'a')
    and s.dbid = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
-- What somebody's session has for as long as it lasts is no matter.
where coalesce((pg_identify_object(s.classid, s.objid, s.objsubid)).schema, '') !~ '^pg_(toast_)?temp'
order by 2, 3

-- audit_open_policies: Returns the policies by which whoever comes through an API may write every row of a table: a
-- permissive `true`, with the privilege to use it, and no restrictive policy beside it.
select
    case when who.name = 'authenticated' then 'warning' else 'danger' end,
    'policy ' || quote_ident(p.polname) || ' on ' || c.oid::regclass,
    case when who.name = 'authenticated' then 'Everybody who is signed in' else 'Everybody, signed in or not,' end
        || ' may ' || string_agg(command.name, ', ' order by command.name) || ' every row.',
    'drop policy ' || quote_ident(p.polname) || ' on ' || c.oid::regclass || ';'
from pg_catalog.pg_policy as p
join pg_catalog.pg_class as c on c.oid = p.polrelid
cross join (values ('insert', 'a'), ('update', 'w'), ('delete', 'd')) as command (name, letter)
-- Whom the policy speaks of: the weakest of those who have the privilege too.
cross join lateral (
    select r.rolname as name
    from pg_catalog.pg_roles as r
    where r.rolname in ('anon', 'authenticated')
        and (p.polroles = '{0}' or r.oid = any (p.polroles))
        and has_table_privilege(r.oid, c.oid, command.name)
    order by r.rolname
    limit 1
) as who
where c.relrowsecurity
    and p.polpermissive
    and p.polcmd::text in ('*', command.letter)
    and c.relnamespace = any (%(schemas)s::oid[])
    and case command.letter
        -- Without a check of its own the condition for reading is the check.
        when 'a' then coalesce(pg_get_expr(p.polwithcheck, c.oid), pg_get_expr(p.polqual, c.oid)) = 'true'
        else pg_get_expr(p.polqual, c.oid) = 'true'
    end
    and not exists (
        select
        from pg_catalog.pg_policy as strict
        where strict.polrelid = c.oid
            and not strict.polpermissive
            and strict.polcmd::text in ('*', command.letter)
            and (strict.polroles = '{0}' or strict.polroles @> p.polroles)
    )
group by p.polname, c.oid, who.name
order by 1, 2

-- audit_policies_per_row: Returns the policies that call a function without arguments for every row, where `(select …)`
-- would call it once per statement. Which functions a policy calls is known to the catalogue, but for those of
-- PostgreSQL itself.
select
    'warning',
    'policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass,
    'Calls ' || p.names || ' once per row instead of once per statement.',
    case
        when not p.returns_array then
            'alter policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass
            || coalesce(' using (' || regexp_replace(p.using_, p.pattern, '(select \1)', 'g') || ')', '')
            || coalesce(' with check (' || regexp_replace(p.check_, p.pattern, '(select \1)', 'g') || ')', '') || ';'
    end
from (
    select
        y.polname,
        y.polrelid,
        pg_get_expr(y.polqual, y.polrelid) as using_,
        pg_get_expr(y.polwithcheck, y.polrelid) as check_,
        called.names,
        called.pattern,
        called.returns_array
    from pg_catalog.pg_policy as y
    join pg_catalog.pg_class as c on c.oid = y.polrelid
    cross join lateral (
        select
            string_agg(f.call, ', ' order by f.call) as names,
            '(' || string_agg(f.pattern, '|' order by f.call) || ')' as pattern,
            bool_or(f.returns_array) as returns_array  -- `= any ((select …))` would take it for rows
        from (
            select
                quote_ident(n.nspname) || '.' || quote_ident(f.proname) || '()' as call,
                regexp_replace(
                    quote_ident(n.nspname) || '.' || quote_ident(f.proname) || '()', '([^a-zA-Z0-9_])', '\\\1', 'g'
                ) as pattern,
                t.typcategory = 'A' as returns_array
            from pg_catalog.pg_depend as d
            join pg_catalog.pg_proc as f on f.oid = d.refobjid
            join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
            join pg_catalog.pg_type as t on t.oid = f.prorettype
            where d.classid = 'pg_policy'::regclass
                and d.objid = y.oid
                and d.refclassid = 'pg_proc'::regclass
                and f.pronargs = 0
                and f.provolatile <> 'v'
            union
            select 'current_setting(…)', 'current_setting\(''[^'']*''::text(?:, (?:true|false))?\)', false
        ) as f
        -- Called somewhere that is not the beginning of a subquery.
        where regexp_replace(
            concat_ws(' ', pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid)),
            'SELECT (?:\(|NULLIF\(|COALESCE\()*' || f.pattern, '', 'g'
        ) ~ f.pattern
    ) as called
    where c.relnamespace = any (%(schemas)s::oid[]) and called.names is not null
) as p
order by 2

-- audit_private_schema: Returns what anybody but its owner and import_worker may do in the private schema
-- import_pipeline, now or with objects that are created later.
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

-- audit_schemas: Returns the schemas that an audit looks into: ours, and whatever an API's roles may reach. Left out
-- are those that the platform keeps: their objects are not the owner's to change.
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

-- audit_tables_without_row_security: Returns the tables of the audited schemas whose rows no policy guards. Row-level
-- security without any policy is no finding: then nobody sees anything.
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

-- audit_views: Returns what shows rows past the policies of the tables behind it, to roles of an API or to everybody:
-- views with their owner's rights, and materialised views and foreign tables, which know no policies.
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

-- audit_worker_privileges: Returns what import_worker may do beyond what it needs, whether granted to it or to
-- everybody, and what it may not do though it needs it. That everybody may create temporary tables is not among it:
-- those are seen by their session alone, and our statements never look there. So nobody's temporary schemas are looked
-- at.
with worker as (
    select oid from pg_catalog.pg_roles where rolname = 'import_worker'
),
needed (object, privileges) as (
    values
        ('public.recordings', '{select,insert}'::text[]),
        ('public.vault_entries', '{select,insert}'),
        ('public.banks', '{select}'),
        ('public.bank_memberships', '{select}'),
        ('public.vaults', '{select}'),
        ('public.import_sources', '{select,insert,update,delete}'),
        ('public.sync_jobs', '{select,insert,update}'),
        ('public.import_items', '{select,insert,update}'),
        ('import_pipeline.credentials', '{select,insert,update,delete}'),
        ('import_pipeline.leases', '{select,insert,update,delete}'),
        ('import_pipeline.rate_budgets', '{select,insert,update,delete}'),
        ('import_pipeline.polls', '{select,insert,update,delete}'),
        ('import_pipeline.dropped_files', '{select,insert,update,delete}'),
        ('import_pipeline.shared_folders', '{select,insert}')
),
lacking as (
    select 'table ' || c.oid::regclass as object, p.name as privilege
    from worker
    cross join needed
    join pg_catalog.pg_namespace as n on n.nspname = split_part(needed.object, '.', 1)
    join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = split_part(needed.object, '.', 2)
    cross join unnest(needed.privileges) as p (name)
    where not has_table_privilege(worker.oid, c.oid, p.name)
    union all
    select 'schema ' || n.nspname, 'usage'
    from worker
    cross join pg_catalog.pg_namespace as n
    where n.nspname in ('public', 'import_pipeline') and not has_schema_privilege(worker.oid, n.oid, 'usage')
),
had as (
    -- Tables and views, as a whole or by columns.
    select
        'table ' || c.oid::regclass as object,
        p.name as privilege,
        has_table_privilege('public', c.oid, p.name) as by_all
    from worker
    cross join pg_catalog.pg_class as c
    cross join unnest('{select,insert,update,delete,truncate,references,trigger}'::text[]) as p (name)
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    left join needed on needed.object = n.nspname || '.' || c.relname
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
        and n.nspname !~ '^(pg_|information_schema$)'
        and not p.name = any (coalesce(needed.privileges, '{}'))
        and case
            when p.name in ('select', 'insert', 'update', 'references')
                then has_any_column_privilege(worker.oid, c.oid, p.name)
            else has_table_privilege(worker.oid, c.oid, p.name)
        end
        and not exists (
            select
            from pg_catalog.pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        )
    union all
    select 'sequence ' || c.oid::regclass, p.name, has_sequence_privilege('public', c.oid, p.name)
    from worker
    cross join pg_catalog.pg_class as c
    cross join unnest('{usage,select,update}'::text[]) as p (name)
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname !~ '^pg_'
    where c.relkind = 'S' and has_sequence_privilege(worker.oid, c.oid, p.name)
    union all
    select 'schema ' || quote_ident(n.nspname), 'create', has_schema_privilege('public', n.oid, 'create')
    from worker
    cross join pg_catalog.pg_namespace as n
    where n.nspname !~ '^pg_' and has_schema_privilege(worker.oid, n.oid, 'create')
    union all
    select 'database ' || quote_ident(d.datname), 'create', has_database_privilege('public', d.oid, 'create')
    from worker
    cross join pg_catalog.pg_database as d
    where d.datname = current_database() and has_database_privilege(worker.oid, d.oid, 'create')
    union all
    -- What everybody may execute is no right of the importer's own.
    select 'function ' || f.oid::regprocedure, 'execute', false
    from worker
    cross join pg_catalog.pg_proc as f
    join pg_catalog.pg_namespace as n on n.oid = f.pronamespace and n.nspname !~ '^pg_'
    cross join lateral aclexplode(f.proacl) as a
    where a.grantee = worker.oid
        and f.pronamespace <> to_regnamespace('import_pipeline')
        and f.oid is distinct from to_regprocedure('public.get_import_counts(uuid)')
    union all
    select 'table ' || c.oid::regclass, 'grant option for ' || lower(a.privilege_type), false
    from worker
    cross join pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname !~ '^pg_'
    cross join lateral aclexplode(c.relacl) as a
    where a.grantee = worker.oid and a.is_grantable
)
select
    'danger',
    had.object,
    'import_worker may ' || string_agg(had.privilege, ', ' order by had.privilege) || ' here'
        || case when had.by_all then ', because everybody may' else '' end || '; it needs that for nothing.',
    'revoke ' || string_agg(had.privilege, ', ' order by had.privilege) || ' on ' || had.object || ' from '
        || case when had.by_all then 'public' else 'import_worker' end || ';'
from had
group by had.object, had.by_all
union all
select
    'warning',
    lacking.object,
    'import_worker may not ' || string_agg(lacking.privilege, ', ' order by lacking.privilege)
        || ' here, which it needs.',
    'grant ' || string_agg(lacking.privilege, ', ' order by lacking.privilege) || ' on ' || lacking.object
        || ' to import_worker;'
from lacking
where to_regnamespace('import_pipeline') is not null
group by lacking.object
union all
-- Only a superuser can take it from everybody, so it is told where one keeps the schema.
select
    'warning',
    'function lo_create(oid)',
    'Everybody may store large objects, past every table and policy, and import_worker with them.',
    'revoke execute on function ' || string_agg(f.oid::regprocedure::text, ', ' order by f.proname) || ' from public;'
from worker
cross join pg_catalog.pg_proc as f
where f.pronamespace = 'pg_catalog'::regnamespace
    and f.proname in ('lo_create', 'lo_creat', 'lo_from_bytea', 'lo_put', 'lowrite')
    and has_function_privilege('public', f.oid, 'execute')
    and exists (
        select
        from pg_catalog.pg_namespace as n
        join pg_catalog.pg_roles as o on o.oid = n.nspowner
        where n.nspname = 'import_pipeline' and o.rolsuper
    )
having count(*) > 0
order by 2

-- audit_worker_role: Returns what import_worker is that it must not be: more than a role that works for one user at a
-- time.
with worker as (
    select * from pg_catalog.pg_roles where rolname = 'import_worker'
)
select
    'danger',
    'role import_worker',
    'Has the attribute ' || attribute.name || '.',
    'alter role import_worker no' || attribute.name || ';'
from worker
cross join lateral (
    values
        ('superuser', rolsuper), ('bypassrls', rolbypassrls), ('createrole', rolcreaterole),
        ('createdb', rolcreatedb), ('replication', rolreplication)
) as attribute (name, is_set)
where attribute.is_set
union all
select
    'danger',
    'role import_worker',
    'Is a member of ' || quote_ident(g.rolname) || ', and may act as it.',
    'revoke ' || quote_ident(g.rolname) || ' from import_worker;'
from worker
join pg_catalog.pg_auth_members as m on m.member = worker.oid
join pg_catalog.pg_roles as g on g.oid = m.roleid
union all
select
    'danger',
    'role ' || quote_ident(r.rolname),
    'Is a member of import_worker, so whoever comes through the API may work for any user.',
    'revoke import_worker from ' || quote_ident(r.rolname) || ';'
from worker
join pg_catalog.pg_roles as r on r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator')
where pg_has_role(r.oid, worker.oid, 'member') and not r.rolsuper
union all
select
    'danger',
    case when s.objid is null then 'role import_worker' else pg_describe_object(s.classid, s.objid, s.objsubid) end,
    'Belongs to import_worker, which may own nothing: no policy binds an owner.',
    null
from worker
join pg_catalog.pg_shdepend as s
    on s.refclassid = 'pg_authid'::regclass
    and s.refobjid = worker.oid
    and s.deptype = 'o'
    and s.dbid in (0, (select d.oid from pg_catalog.pg_database as d where d.datname = current_database()))
-- What somebody's session has for as long as it lasts is no matter.
where coalesce((pg_identify_object(s.classid, s.objid, s.objsubid)).schema, '') !~ '^pg_(toast_)?temp'
order by 2, 3
