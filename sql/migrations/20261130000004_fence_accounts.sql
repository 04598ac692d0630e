-- The private tables are fenced like the rest: in a user's name the importer reaches what belongs to his accounts.
--
-- Credentials it reaches in no other way. The others it also reaches in nobody's name, where it works for many accounts
-- at once: a run renews all its leases with one statement, a tick asks for runs of hundreds of accounts, processes
-- share the budget of an account whose owner they do not know. Whoever may work in anybody's name could do that anyway.

alter policy "Import worker keeps credentials" on import_pipeline.credentials
    using (account_id = any ((select import_pipeline.claimed_account_ids())::uuid[]))
    with check (account_id = any ((select import_pipeline.claimed_account_ids())::uuid[]));

alter policy "Import worker keeps leases" on import_pipeline.leases
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );

alter policy "Import worker keeps rate budgets" on import_pipeline.rate_budgets
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );

alter policy "Import worker keeps polls" on import_pipeline.polls
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );

alter policy "Import worker keeps dropped files" on import_pipeline.dropped_files
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );


-- Asking for runs ---------------------------------------------------------------------------------------------------
-- One statement for many accounts, and each row refers to its account, which the user may have locked: such an account
-- is passed over until the next tick, else one open transaction would keep everybody's runs from being asked for.

create function import_pipeline.request_polls(
    p_account_ids uuid[], p_first_pause double precision, p_longest_pause double precision
)
returns setof uuid
language plpgsql
volatile security definer
set search_path = '', pg_temp
as $$
begin
    return query
        with free as (
            select s.id
            from public.import_sources as s
            where s.id = any (p_account_ids)
            order by s.id
            for key share skip locked
        )
        insert into import_pipeline.polls as poll (account_id, attempts, requested_at, not_before)
        select free.id, 1, now(), now() + make_interval(secs => p_first_pause) from free
        on conflict (account_id) do update
        set attempts = poll.attempts + 1,
            requested_at = excluded.requested_at,
            not_before = now() + make_interval(
                secs => least(p_first_pause * 2 ^ least(poll.attempts, 20), p_longest_pause)
            )
        returning poll.account_id;
end
$$;
comment on function import_pipeline.request_polls(uuid[], double precision, double precision) is
    'Notes that runs are asked for, and returns of which accounts: not of those that somebody else has locked. Until '
    'each comes to its end it is asked for again only after a growing pause.';

create function import_pipeline.accounts_with_credentials()
returns table (account_id uuid, user_id uuid)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select s.id, s.user_id
    from import_pipeline.credentials as c
    join public.import_sources as s on s.id = c.account_id
    order by s.id
$$;
comment on function import_pipeline.accounts_with_credentials() is
    'Which accounts have a credential, and whose they are, for a change of the key.';

revoke all on function
    import_pipeline.request_polls(uuid[], double precision, double precision),
    import_pipeline.accounts_with_credentials()
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.request_polls(uuid[], double precision, double precision),
    import_pipeline.accounts_with_credentials()
    to import_worker;
