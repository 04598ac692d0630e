-- act_as: Sets for whom the rest of a transaction works: the role, and the claims of the user. The three settings below
-- them are older ways to hand claims over, which `auth.uid()` prefers: they may be left from another client of the same
-- pool. Null for the path, a timeout or whether it only reads leaves that as it is. The last three let the server
-- notice within a minute that its client is cut off, also where it waits for the rest of what it was sent, to which no
-- timeout applies.
select
    pg_catalog.set_config('role', %(role)s, true),
    pg_catalog.set_config('request.jwt.claims', %(claims)s, true),
    pg_catalog.set_config('request.jwt.claim', %(claim)s, true),
    pg_catalog.set_config('request.jwt.claim.sub', %(claim_sub)s, true),
    pg_catalog.set_config('request.jwt.claim.role', %(claim_role)s, true),
    pg_catalog.set_config('search_path', coalesce(%(path)s, pg_catalog.current_setting('search_path')), true),
    pg_catalog.set_config(
        'idle_in_transaction_session_timeout',
        coalesce(%(idle_timeout)s, pg_catalog.current_setting('idle_in_transaction_session_timeout')),
        true
    ),
    pg_catalog.set_config(
        'lock_timeout', coalesce(%(lock_timeout)s, pg_catalog.current_setting('lock_timeout')), true
    ),
    pg_catalog.set_config(
        'transaction_read_only',
        coalesce(%(read_only)s, pg_catalog.current_setting('transaction_read_only')),
        true
    ),
    pg_catalog.set_config('tcp_keepalives_idle', '30', true),
    pg_catalog.set_config('tcp_keepalives_interval', '10', true),
    pg_catalog.set_config('tcp_keepalives_count', '3', true)

-- describe_session: Returns four things that stay the same for a connection. First whether a stranger may create
-- objects in a schema of the search_path: his operator `^ (integer, integer)`, a better match than PostgreSQL's own,
-- would run as import_worker. All names are spelt out here for the same reason. No strangers are superusers, this
-- login, and who owns the database or the table recordings. Then how long it waits for locks at most (0: for ever).
-- Then whom the server takes its client for: its own process, and the client's port.
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

-- find_actor: Returns for whom the transaction works so far, in the words of act_as.
select
    pg_catalog.current_setting('role') as role,
    coalesce(pg_catalog.current_setting('request.jwt.claims', true), '') as claims,
    coalesce(pg_catalog.current_setting('request.jwt.claim', true), '') as claim,
    coalesce(pg_catalog.current_setting('request.jwt.claim.sub', true), '') as claim_sub,
    coalesce(pg_catalog.current_setting('request.jwt.claim.role', true), '') as claim_role,
    pg_catalog.current_setting('search_path') as path

-- find_transaction_time: When the transaction began, by the clock of the database.
select pg_catalog.now()

-- read_committed: Let the transaction see what others commit meanwhile, whatever the session's default; its first
-- statement.
set transaction isolation level read committed

-- read_one_moment: Let the transaction see everything as it stands now, and change nothing; its first statement.
set transaction isolation level repeatable read, read only

-- set_locally: Change settings of the session until the end of the transaction.
select pg_catalog.set_config(setting.name, setting.value, true)
from unnest(%(names)s::text[], %(values)s::text[]) as setting (name, value)
