-- Sets for whom the rest of a transaction works: the role, and the claims of the user. The three settings below them
-- are older ways to hand claims over, which `auth.uid()` prefers: they may be left from another client of the same
-- pool. Null for the path, a timeout or whether it only reads leaves that as it is. The last three let the server notice
-- within a minute that its client is cut off, also where it waits for the rest of what it was sent, to which no timeout
-- applies.
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
