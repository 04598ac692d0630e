-- Our policies and functions trust what stands in these tables, and who owns a table can make anything stand there. So
-- each must belong to who migrates, to the owner of the database, to a superuser, or to a role that nobody can be. The
-- same question, asked at any time and before the first of these files, is `sql/queries/audit_foreign_owners.sql`.


-- 1. Whose are they? ------------------------------------------------------------------------------------------------

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
                    'Look at what is there, then let it belong to %1$I (alter … owner to %1$I), or migrate as the role '
                    'that it belongs to.', current_user
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


-- 2. Does `vault_memberships` say who may write? --------------------------------------------------------------------

do $$
declare
    v_missing text;
begin
    select string_agg('public.vault_memberships.' || needed.name, ', ' order by needed.name)
    into v_missing
    from (values ('vault_id'), ('user_id'), ('role')) as needed (name)
    where not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'public.vault_memberships'::regclass and a.attname = needed.name and not a.attisdropped
    );
    if v_missing is not null then
        raise exception 'This database has tables of the expected names without these columns: %.', v_missing
            using errcode = 'undefined_column', hint = 'Add the columns, or use another database.';
    end if;
end
$$;
