-- The importer's login: a role that can do nothing but become import_worker. What a trigger or a mistake makes a
-- session of the importer run then gains no more than that, whatever role it asks for.
--
-- It has no password, so that it enters nowhere until somebody gives it one, but where the server asks for none.

do $$
declare
    v_problem text;
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'import_login') then
        if not exists (
            select from pg_catalog.pg_roles where rolname = current_user and (rolsuper or rolcreaterole)
        ) then
            raise warning 'Role import_login is missing and role % may not create roles.', current_user
                using hint = 'The importer goes on with its login; `import-pipeline audit` says what to do.';
            return;
        end if;
        begin
            create role import_login login noinherit nosuperuser nobypassrls nocreatedb nocreaterole noreplication;
        exception when duplicate_object or unique_violation then
            null;  -- by the migration of another database at this very moment
        end;
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

    -- Before PostgreSQL 16 a membership could not say that it is for `set role` alone; the role's NOINHERIT does.
    begin
        if current_setting('server_version_num')::integer >= 160000 then
            if not pg_has_role('import_login', 'import_worker', 'set') then
                execute 'grant import_worker to import_login with set true, inherit false, admin false';
            end if;
        elsif not pg_has_role('import_login', 'import_worker', 'member') then
            execute 'grant import_worker to import_login';
        end if;
    exception
        when unique_violation or internal_error then
            null;  -- granted by the migration of another database meanwhile
        when insufficient_privilege then
            raise warning 'Role import_login may not act as import_worker yet.'
                using hint = 'Let a superuser run: grant import_worker to import_login;';
    end;
end
$$;


-- What everybody may do on a server, and an importer need not --------------------------------------------------------
-- Large objects are stored past every table and policy. Others may need them, so this is done only where the call
-- library is ours, made by our migrations, and whoever migrates may; elsewhere `import-pipeline audit` names them.

do $$
declare
    v_function regprocedure;
begin
    if obj_description('public.recordings'::regclass, 'pg_class') is distinct from
            'One call each, whatever source it came from.'
        or not exists (select from pg_catalog.pg_roles where rolname = current_user and rolsuper)
    then
        return;
    end if;
    for v_function in
        select f.oid
        from pg_catalog.pg_proc as f
        where f.pronamespace = 'pg_catalog'::regnamespace
            and f.proname in ('lo_create', 'lo_creat', 'lo_from_bytea', 'lo_put', 'lowrite')
    loop
        execute format('revoke execute on function %s from public', v_function);
    end loop;
end
$$;
