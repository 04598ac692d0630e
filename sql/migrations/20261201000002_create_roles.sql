-- The roles that policies speak of. Roles belong to the server and not to one database, so each may be there already,
-- or may be created by the migration of another database at this very moment.


-- 1. Roles of the API, as Supabase has them -------------------------------------------------------------------------

do $$
declare
    v_role name;
begin
    foreach v_role in array array['anon', 'authenticated'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
            begin
                execute format('create role %I nologin noinherit', v_role);
            exception when duplicate_object or unique_violation then
                null;  -- somebody else was faster
            end;
        end if;
    end loop;

    if not exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
        begin
            create role service_role nologin noinherit bypassrls;
        exception
            when duplicate_object or unique_violation then
                null;
            when insufficient_privilege then
                begin
                    create role service_role nologin noinherit;
                    raise warning 'Role service_role cannot bypass row-level security yet.'
                        using hint = 'Let a superuser run: alter role service_role bypassrls;';
                exception when duplicate_object or unique_violation then
                    null;
                end;
        end;
    end if;
end
$$;


-- 2. The role of the importer ---------------------------------------------------------------------------------------

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'import_worker') then
        begin
            create role import_worker nologin noinherit nosuperuser nobypassrls nocreatedb nocreaterole noreplication;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;

    -- Whoever migrates must be able to `set role import_worker`, but need not inherit what it may do. Before
    -- PostgreSQL 16 a membership could not say so.
    begin
        if current_setting('server_version_num')::integer >= 160000 then
            if not pg_has_role(current_user, 'import_worker', 'set') then
                execute format('grant import_worker to %I with set true, inherit false', current_user);
            end if;
        elsif not pg_has_role(current_user, 'import_worker', 'member') then
            execute format('grant import_worker to %I', current_user);
        end if;
    exception
        when unique_violation or internal_error then
            null;  -- granted by the migration of another database meanwhile
        when insufficient_privilege then
            raise exception 'Role import_worker exists on this server, but role % may not act as it.', current_user
                using errcode = 'insufficient_privilege',
                    hint = format('Let a superuser run: grant import_worker to %I;', current_user);
    end;
end
$$;


-- 3. The importer's login -------------------------------------------------------------------------------------------
-- A role that can do nothing but become import_worker. What a trigger or a mistake makes a session of the importer run
-- then gains no more than that, whatever role it asks for. It has no password, so that it enters nowhere until somebody
-- gives it one, but where the server asks for none.

do $$
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
