-- Returns four things that stay the same for a connection. First whether a stranger may create objects in a schema of
-- the search_path: his operator `^ (integer, integer)`, a better match than PostgreSQL's own, would run as
-- import_worker. All names are spelt out here for the same reason. No strangers are superusers, this login, and who
-- owns the database or the table recordings. Then how long it waits for locks at most (0: for ever). Then whom the
-- server takes its client for: its own process, and the client's port.
select
    exists (
        select
        from pg_catalog.pg_namespace as n
        cross join lateral (
            select n.nspowner as role
            union all
            select a.grantee
            from pg_catalog.aclexplode(n.nspacl) as a
            where a.privilege_type operator(pg_catalog.=) 'CREATE'
        ) as creator
        -- The path may name the schema of the current role, which will be import_worker.
        where (
                n.nspname operator(pg_catalog.=) any (pg_catalog.current_schemas(false))
                or n.nspname operator(pg_catalog.=) 'import_worker'
            )
            and n.nspname operator(pg_catalog.<>) 'pg_catalog'
            and not exists (
                select
                from pg_catalog.pg_roles as r
                where r.oid operator(pg_catalog.=) creator.role
                    and (
                        r.rolsuper
                        or r.rolname operator(pg_catalog.=) 'pg_database_owner'
                        or r.rolname operator(pg_catalog.=) session_user
                        or r.oid operator(pg_catalog.=) (
                            select d.datdba
                            from pg_catalog.pg_database as d
                            where d.datname operator(pg_catalog.=) pg_catalog.current_database()
                        )
                        or r.oid operator(pg_catalog.=) any (
                            select c.relowner
                            from pg_catalog.pg_class as c
                            join pg_catalog.pg_namespace as s on s.oid operator(pg_catalog.=) c.relnamespace
                            where s.nspname operator(pg_catalog.=) 'public'
                                and c.relname operator(pg_catalog.=) 'recordings'
                        )
                    )
            )
    ) as path_is_open,
    (
        select s.setting::pg_catalog.int4
        from pg_catalog.pg_settings as s
        where s.name operator(pg_catalog.=) 'lock_timeout'
    ),
    pg_catalog.pg_backend_pid(),
    pg_catalog.inet_client_port()
