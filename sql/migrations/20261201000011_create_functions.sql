-- What is asked for many users at once, and counts for the owner's application.


-- 1. Times ----------------------------------------------------------------------------------------------------------
-- Users may write some of the rows that are read for all of them, here and in the next file: times that no program's
-- calendar holds, a cursor in the future, texts without end. What is odd in such a row is left out where it leaves the
-- database: it is then that account's matter, and nobody else's import, schedule or page fails for it.

create function import_pipeline.known_time(p_time timestamptz)
returns timestamptz
language sql
immutable parallel safe
set search_path = '', pg_temp
as $$
    select case
        when p_time >= timestamptz '1000-01-01 00:00:00+00' and p_time < timestamptz '9000-01-01 00:00:00+00'
            then p_time
    end
$$;
comment on function import_pipeline.known_time(timestamptz) is
    'The time, or null for what calendars of programs do not hold: infinity, years before Christ or above 9999.';

create function import_pipeline.known_cursor(p_time timestamptz)
returns timestamptz
language sql
stable parallel safe
set search_path = '', pg_temp
as $$
    select case
        when p_time >= timestamptz '1970-01-01 00:00:00+00' and p_time <= now() + interval '1 day' then p_time
    end
$$;
comment on function import_pipeline.known_cursor(timestamptz) is
    'Until when an account was read, or null where that is not known: nobody has read the future, but for a clock that '
    'was set back. Then the whole history is listed once more, which costs requests and loses no call.';


-- 2. Users ----------------------------------------------------------------------------------------------------------
-- Addresses are compared as mail servers compare them: without regard to the case of ASCII letters, and of nothing
-- else. What `lower` makes of other characters depends on the database: to some the Kelvin sign is a k, and whoever had
-- it in their address was taken for somebody else.

create function import_pipeline.find_user(p_email text)
returns uuid
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    -- In the collation "C" `lower` knows ASCII only, and what is equal is so byte by byte, whatever the column says.
    return (
        select u.id
        from auth.users as u
        where lower(u.email::text collate "C") = lower(p_email collate "C")
    );
exception when cardinality_violation then
    raise exception 'Several users have the e-mail address %.', p_email using errcode = 'cardinality_violation';
end
$$;
comment on function import_pipeline.find_user(text) is
    'The user with this e-mail address in any case of ASCII letters; null: nobody.';

create function import_pipeline.name_users(p_user_ids uuid[])
returns table (user_id uuid, label text)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select u.id, coalesce(u.email, u.id::text)::text from auth.users as u where u.id = any (p_user_ids)
$$;
comment on function import_pipeline.name_users(uuid[]) is 'The e-mail addresses of users, for tables that people read.';


-- 3. Runs -----------------------------------------------------------------------------------------------------------

create function import_pipeline.silent_sync_jobs(p_limit integer)
returns table (
    id uuid, user_id uuid, account_id uuid, source_app text, run_id text, holder_process text, is_silent boolean
)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select
        j.id, j.user_id, s.id, s.source_app::text, j.metadata ->> 'run_id', l.holder_process,
        l.expires_at < clock_timestamp()
        or (l.account_id is null and j.updated_at < clock_timestamp() - interval '90 seconds')
    from public.sync_jobs as j
    join public.import_sources as s on s.id::text = j.metadata ->> 'account_id' and s.user_id = j.user_id
    left join import_pipeline.leases as l on l.account_id = s.id and l.holder = j.metadata ->> 'run_id'
    where j.status = 'processing' and char_length(j.metadata ->> 'run_id') <= 255
    -- Each user's in turn: whoever may write such rows could else put any number of his own before all others.
    order by row_number() over (partition by j.user_id order by j.updated_at), j.updated_at
    limit p_limit
$$;
comment on function import_pipeline.silent_sync_jobs(integer) is
    'Rows in the state processing, longest untouched first, with the process that works on them as far as it is known; '
    'silent is a row whose run has given no sign of life for the length of a lease.';

-- Runs are asked for in one statement for many accounts, and each row refers to its account, which the user may have
-- locked: such an account is passed over until the next tick, or one open transaction would keep everybody's runs from
-- being asked for.
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
    import_pipeline.known_time(timestamptz),
    import_pipeline.known_cursor(timestamptz),
    import_pipeline.find_user(text),
    import_pipeline.name_users(uuid[]),
    import_pipeline.silent_sync_jobs(integer),
    import_pipeline.request_polls(uuid[], double precision, double precision),
    import_pipeline.accounts_with_credentials()
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.known_time(timestamptz),
    import_pipeline.known_cursor(timestamptz),
    import_pipeline.find_user(text),
    import_pipeline.name_users(uuid[]),
    import_pipeline.silent_sync_jobs(integer),
    import_pipeline.request_polls(uuid[], double precision, double precision),
    import_pipeline.accounts_with_credentials()
    to import_worker;


-- 4. Counts for the owner's application -----------------------------------------------------------------------------
-- A function of this name that was here before is the owner's and stays as it is.

do $$
begin
    if to_regprocedure('public.get_import_counts(uuid)') is not null then
        return;
    end if;

    create function public.get_import_counts(p_user_id uuid)
    returns table (source_app text, call_count bigint)
    language plpgsql
    stable security definer
    set search_path = '', pg_temp
    as $function$
    #variable_conflict use_column
    begin
        -- Without claims and not through the API's login role it is a direct connection of somebody who may execute
        -- this.
        if p_user_id is distinct from (select auth.uid())
            and (select auth.role()) is distinct from 'service_role'
            and not (coalesce((select auth.jwt()), '{}') = '{}' and (select auth.uid()) is null
                and session_user <> 'authenticator')
        then
            raise exception 'Import counts can only be read by the user they belong to.'
                using errcode = 'insufficient_privilege';
        end if;
        return query
            select r.source_app::text, count(*)
            from public.recordings as r
            where r.owner_user_id = p_user_id
            group by 1
            order by 1;
    end
    $function$;
    comment on function public.get_import_counts(uuid) is
        'How many recordings a user has of each source; answers only the user himself and trusted callers.';
    revoke all on function public.get_import_counts(uuid) from public, anon;
    grant execute on function public.get_import_counts(uuid) to authenticated, service_role, import_worker;
end
$$;
