-- Checks everything the following migrations need, then creates the private schema and the history of migrations.
--
-- The checks stand in the first file on purpose: a database that cannot be migrated is left exactly as it was, whether
-- `import-pipeline migrate` or the Supabase CLI runs these files.


-- 1. May this role do it? -----------------------------------------------------------------------------------------

do $$
declare
    v_role name;
    v_users oid;
    v_problem text;
begin
    if to_regnamespace('import_pipeline') is null
        and not has_database_privilege(current_user, current_database(), 'create') then
        raise exception 'Role % may not create schemas in database %.', current_user, current_database()
            using errcode = 'insufficient_privilege',
                hint = format(
                    'Let its owner run: grant create on database %I to %I;', current_database(), current_user
                );
    end if;

    if not has_schema_privilege(current_user, 'public', 'create') then
        raise exception 'Role % may not create tables in schema public.', current_user
            using errcode = 'insufficient_privilege',
                hint = format('Let the owner of the database run: grant create on schema public to %I;', current_user);
    end if;

    -- Indexes, policies and columns are added to these tables, which only their owner may do.
    select string_agg(format('%s (owner %s)', c.oid::regclass, r.rolname), ', ' order by c.relname)
    into v_problem
    from pg_catalog.pg_class as c
    join pg_catalog.pg_roles as r on r.oid = c.relowner
    where c.oid = any (array[
            to_regclass('public.banks'), to_regclass('public.bank_memberships'), to_regclass('public.vaults'),
            to_regclass('public.recordings'), to_regclass('public.vault_entries'), to_regclass('public.sync_jobs'),
            to_regclass('public.import_sources')
        ])
        and not pg_has_role(current_user, c.relowner, 'usage');
    if v_problem is not null then
        raise exception 'Role % does not own these tables: %.', current_user, v_problem
            using errcode = 'insufficient_privilege', hint = 'Run the migrations as the role that owns the tables.';
    end if;

    -- Asked of the catalogue, because `to_regclass` fails in a schema that the role may not use.
    select c.oid into v_users
    from pg_catalog.pg_class as c
    where c.relnamespace = to_regnamespace('auth') and c.relname = 'users';
    if v_users is not null then
        if not (
            has_schema_privilege(current_user, 'auth', 'usage')
            and has_table_privilege(current_user, v_users, 'select')
            and has_table_privilege(current_user, v_users, 'references')
        ) then
            raise exception 'Role % may not read and reference auth.users.', current_user
                using errcode = 'insufficient_privilege',
                    hint = format(
                        'Let its owner run: grant usage on schema auth to %1$I; '
                        'grant select, references on auth.users to %1$I;', current_user
                    );
        end if;
    end if;

    -- The functions made later run as this role. An owner is bound by policies only where they are forced.
    select string_agg(c.oid::regclass::text, ', ' order by c.relname)
    into v_problem
    from pg_catalog.pg_class as c
    where c.oid = any (array[
            v_users, to_regclass('public.bank_memberships'), to_regclass('public.vaults'),
            to_regclass('public.recordings'), to_regclass('public.import_sources')
        ])
        and row_security_active(c.oid);
    if v_problem is not null then
        raise exception 'Row-level security hides rows of % from role %.', v_problem, current_user
            using errcode = 'insufficient_privilege',
                hint = format('Let a superuser run: alter role %I bypassrls;', current_user);
    end if;

    foreach v_role in array array['anon', 'authenticated', 'service_role', 'import_worker'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = v_role)
            and not exists (
                select from pg_catalog.pg_roles where rolname = current_user and (rolsuper or rolcreaterole)
            ) then
            raise exception 'Role % is missing and role % may not create roles.', v_role, current_user
                using errcode = 'insufficient_privilege',
                    hint = format('Let a superuser run: alter role %I createrole;', current_user);
        end if;
    end loop;

    if exists (select from pg_catalog.pg_roles where rolname = 'import_worker') then
        if exists (select from pg_catalog.pg_roles where rolname = 'import_worker' and (rolsuper or rolbypassrls)) then
            raise exception 'Role import_worker bypasses row-level security, so it could not keep users apart.'
                using errcode = 'invalid_role_specification',
                    hint = 'Let a superuser run: alter role import_worker nosuperuser nobypassrls;';
        end if;
        -- The privilege type 'set' and the need for the admin option exist since PostgreSQL 16.
        if current_setting('server_version_num')::integer >= 160000 then
            v_problem := case
                when not pg_has_role(current_user, 'import_worker', 'set')
                    and not pg_has_role(current_user, 'import_worker', 'member with admin option') then 'set'
            end;
        else
            v_problem := case
                when not pg_has_role(current_user, 'import_worker', 'member')
                    and not exists (select from pg_catalog.pg_roles where rolname = current_user and rolcreaterole)
                then 'member'
            end;
        end if;
        if v_problem is not null then
            raise exception 'Role import_worker exists on this server, but role % may not act as it.', current_user
                using errcode = 'insufficient_privilege',
                    hint = format('Let a superuser run: grant import_worker to %I;', current_user);
        end if;
    end if;

    select string_agg(attribute.name, ', ')
    into v_problem
    from pg_catalog.pg_roles as r
    cross join lateral (
        values
            ('superuser', r.rolsuper), ('bypassrls', r.rolbypassrls), ('createrole', r.rolcreaterole),
            ('createdb', r.rolcreatedb), ('replication', r.rolreplication)
    ) as attribute (name, is_set)
    where r.rolname = 'import_login' and attribute.is_set;
    if v_problem is not null then
        raise exception 'Role import_login exists on this server and is more than a login: %.', v_problem
            using errcode = 'invalid_role_specification',
                hint = 'Let a superuser run: alter role import_login nosuperuser nobypassrls nocreatedb nocreaterole '
                    'noreplication;';
    end if;
end
$$;


-- 2. Whose is what is there? ----------------------------------------------------------------------------------------
-- Our policies and functions trust what stands in these tables, and who owns a table can make anything stand there. So
-- each must belong to who migrates, to the owner of the database, to a superuser, or to a role that nobody can be. The
-- same question, asked at any time, is the query `audit_foreign_owners`.

do $$
declare
    v_problem text;
begin
    select string_agg(format('%s belongs to %s', o.name, r.rolname), ', ' order by o.name)
    into v_problem
    from (
        select 'schema ' || n.nspname as name, n.nspowner as owner, n.nspname
        from pg_catalog.pg_namespace as n
        where n.nspname in ('public', 'auth', 'import_pipeline')
        union all
        select 'table ' || c.oid::regclass, c.relowner, n.nspname
        from pg_catalog.pg_class as c
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm', 'f')
            and (
                n.nspname = 'import_pipeline'
                or n.nspname || '.' || c.relname in (
                    'auth.users', 'public.banks', 'public.bank_memberships', 'public.vaults',
                    'public.vault_memberships', 'public.recordings', 'public.vault_entries', 'public.sync_jobs',
                    'public.import_sources', 'public.import_items'
                )
            )
        union all
        select 'function ' || f.oid::regprocedure, f.proowner, n.nspname
        from pg_catalog.pg_proc as f
        join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
        where n.nspname = 'import_pipeline'
            or (n.nspname = 'public' and f.proname = 'get_import_counts')
            or (n.nspname = 'auth' and f.proname in ('uid', 'role', 'jwt'))
    ) as o
    join pg_catalog.pg_roles as r on r.oid = o.owner
    cross join lateral (
        select r.rolname in ('anon', 'authenticated', 'service_role', 'import_worker', 'import_login') as is_ours
    ) as role
    where not r.rolsuper
        and r.rolname <> 'pg_database_owner'
        and (
            role.is_ours
            or not (
                exists (
                    select
                    from pg_catalog.pg_roles as w
                    where (
                            w.rolname = current_user
                            or w.oid = (
                                select d.datdba
                                from pg_catalog.pg_database as d
                                where d.datname = current_database()
                            )
                        )
                        -- Of a superuser it would be said that he has the rights of everybody.
                        and (w.oid = r.oid or (not w.rolsuper and pg_has_role(w.oid, r.oid, 'usage')))
                )
                or (o.nspname = 'auth' and r.rolname ~ '^supabase_')
                or not (
                    r.rolcanlogin or exists (select from pg_catalog.pg_auth_members as m where m.roleid = r.oid)
                )
            )
        );
    if v_problem is not null then
        raise exception 'What policies trust belongs to others than %: %.', current_user, v_problem
            using errcode = 'insufficient_privilege',
                hint = format(
                    'Look at what is there, then let it belong to %1$I (alter … owner to %1$I), or migrate as the '
                    'role that it belongs to.', current_user
                );
    end if;

    select string_agg(c.oid::regclass::text, ', ' order by c.relname)
    into v_problem
    from pg_catalog.pg_class as c
    where c.oid = any (array[
            to_regclass('public.banks'), to_regclass('public.bank_memberships'), to_regclass('public.vaults'),
            to_regclass('public.vault_memberships'), to_regclass('public.recordings'),
            to_regclass('public.vault_entries'), to_regclass('public.sync_jobs'), to_regclass('public.import_sources')
        ])
        and c.relkind not in ('r', 'p');
    if v_problem is not null then
        raise exception 'These are no tables: %.', v_problem
            using errcode = 'wrong_object_type', hint = 'Put tables of these names in their place.';
    end if;
end
$$;


-- 3. Do tables that exist already have what is needed of them? ------------------------------------------------------

do $$
declare
    v_missing text;
begin
    select string_agg(
        format('%s.%s', needed.table_name, needed.column_name), ', ' order by needed.table_name, needed.column_name
    )
    into v_missing
    from (
        values
            ('auth.users', 'id'), ('auth.users', 'email'),
            ('public.banks', 'id'), ('public.banks', 'type'),
            ('public.bank_memberships', 'bank_id'), ('public.bank_memberships', 'user_id'),
            ('public.vaults', 'id'), ('public.vaults', 'bank_id'),
            ('public.vault_memberships', 'vault_id'), ('public.vault_memberships', 'user_id'),
            ('public.vault_memberships', 'role'),
            ('public.recordings', 'id'), ('public.recordings', 'bank_id'), ('public.recordings', 'owner_user_id'),
            ('public.recordings', 'source_app'), ('public.recordings', 'source_metadata'),
            ('public.recordings', 'created_at'),
            ('public.vault_entries', 'vault_id'), ('public.vault_entries', 'recording_id'),
            ('public.sync_jobs', 'id'), ('public.sync_jobs', 'user_id'), ('public.sync_jobs', 'metadata'),
            ('public.import_sources', 'id'), ('public.import_sources', 'user_id'),
            ('public.import_sources', 'source_app'), ('public.import_sources', 'is_active'),
            ('public.import_sources', 'account_email'), ('public.import_sources', 'last_sync_at'),
            ('public.import_sources', 'error_message'), ('public.import_sources', 'created_at'),
            ('public.import_sources', 'updated_at')
    ) as needed (table_name, column_name)
    where to_regclass(needed.table_name) is not null
        and not exists (
            select
            from pg_catalog.pg_attribute as a
            where a.attrelid = to_regclass(needed.table_name)
                and a.attname = needed.column_name
                and not a.attisdropped
        );
    if v_missing is not null then
        raise exception 'This database has tables of the expected names without these columns: %.', v_missing
            using errcode = 'undefined_column', hint = 'Add the columns, or use another database.';
    end if;

    if to_regclass('public.import_items') is not null or to_regclass('public.recordings_import_key') is not null then
        raise exception 'This database has a relation public.import_items or public.recordings_import_key already.'
            using errcode = 'duplicate_table',
                hint = case
                    when to_regclass('import_pipeline.schema_migrations') is null then
                        'If import_pipeline was removed from here, remove them too; else rename what stands in the way.'
                    else
                        'It was migrated before 2026-12-01: run `import-pipeline migrate`, then mark these files as '
                        'applied (supabase migration repair).'
                end;
    end if;
end
$$;


-- 4. Is every recording there once? ---------------------------------------------------------------------------------
-- In one bank, that is: in another one a user's call is a copy of theirs, which they may have.

do $$
declare
    v_groups bigint;
    v_rows bigint;
    v_examples text;
begin
    if to_regclass('public.recordings') is null then
        return;
    end if;
    with duplicates as (
        select
            owner_user_id,
            source_app,
            source_metadata ->> 'external_id' as external_id,
            array_agg(id order by created_at, id) as ids,
            row_number() over (order by count(*) desc, owner_user_id, source_app) as position
        from public.recordings
        where owner_user_id is not null and source_app is not null and source_metadata ->> 'external_id' is not null
        group by 1, 2, 3, bank_id
        having count(*) > 1
    )
    select
        count(*),
        coalesce(sum(cardinality(ids)), 0),
        string_agg(
            format(
                'user %s, %s %s: %s', owner_user_id, source_app, left(external_id, 80),
                array_to_string(ids[1:5], ', ') || case when cardinality(ids) > 5 then ', …' else '' end
            ),
            E'\n' order by position
        ) filter (where position <= 10)
    into v_groups, v_rows, v_examples
    from duplicates;
    if v_groups > 0 then
        raise exception '% rows of public.recordings are % recordings stored more than once.', v_rows, v_groups
            using errcode = 'unique_violation',
                constraint = 'recordings_import_key',
                detail = v_examples,
                hint = '`import-pipeline duplicates` shows them and merges each group into its oldest row.';
    end if;
end
$$;


-- 5. The private schema and the history -----------------------------------------------------------------------------

create schema if not exists import_pipeline;
comment on schema import_pipeline is 'Private to import_pipeline. Never list it among the schemas that an API exposes.';
revoke all on schema import_pipeline from public;

create table import_pipeline.schema_migrations (
    version text not null,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    objects jsonb not null default '{}',
    constraint schema_migrations_pkey primary key (version)
);
alter table import_pipeline.schema_migrations enable row level security;
revoke all on import_pipeline.schema_migrations from public;
comment on table import_pipeline.schema_migrations is
    'Which migrations ran. Kept apart from the history of the Supabase CLI, which refuses versions it has no file for.';
comment on column import_pipeline.schema_migrations.objects is
    'What the objects of import_pipeline looked like after this version, to notice changes made by hand.';
