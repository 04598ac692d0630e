-- Users may write some of the rows that are read here for all of them at once: times that no program's calendar holds,
-- a cursor in the future, texts without end. What is odd in such a row is left out here, where it leaves the database:
-- it is then that account's matter, and nobody else's import, schedule or page fails for it.


-- 1. Times ----------------------------------------------------------------------------------------------------------

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

revoke all on function import_pipeline.known_time(timestamptz), import_pipeline.known_cursor(timestamptz)
    from public, anon, authenticated, service_role;
grant execute on function import_pipeline.known_time(timestamptz), import_pipeline.known_cursor(timestamptz)
    to import_worker;


-- 2. The accounts of everybody --------------------------------------------------------------------------------------

create or replace function import_pipeline.find_accounts(p_source_app text, p_user_ids uuid[])
returns table (
    id uuid, user_id uuid, source_app text, account_email text, is_active boolean, last_sync_at timestamptz, email text
)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select
        s.id, s.user_id, s.source_app::text, left(s.account_email::text, 320), s.is_active,
        import_pipeline.known_cursor(s.last_sync_at), u.email::text
    from public.import_sources as s
    left join auth.users as u on u.id = s.user_id
    where s.source_app = p_source_app
        and (s.user_id = any (p_user_ids) or (p_user_ids is null and s.is_active))
    order by 6 nulls first, s.id
$$;

create or replace function import_pipeline.due_accounts(p_source_app text)
returns table (
    id uuid, user_id uuid, last_sync_at timestamptz, attempts integer, is_unanswered boolean, is_held boolean,
    due_at timestamptz, not_before timestamptz
)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select
        s.id, s.user_id, import_pipeline.known_cursor(s.last_sync_at), coalesce(p.attempts, 0),
        p.requested_at is not null, l.account_id is not null,
        coalesce(
            case
                -- Two look-ups in an index for each account that is not due anyway, however many items it has. What
                -- was due already when the last run looked, and still is, is no longer listed: that can wait.
                when p.due_at > now() then least(
                    p.due_at,
                    (
                        select min(i.retry_at)
                        from public.import_items as i
                        where i.user_id = s.user_id and i.source_app = p_source_app
                            and i.status = 'waiting' and i.retry_at > p.polled_at
                    ),
                    (
                        select min(i.retry_at)
                        from public.import_items as i
                        where i.user_id = s.user_id and i.source_app = p_source_app
                            and i.status = 'failed' and i.retry_at > p.polled_at
                    )
                )
                else p.due_at
            end,
            '-infinity'
        ),
        coalesce(p.not_before, '-infinity')
    from public.import_sources as s
    join auth.users as u on u.id = s.user_id
    left join import_pipeline.polls as p on p.account_id = s.id
    -- A run of history makes room for a live one as soon as it waits. (The column may be younger than this function.)
    left join import_pipeline.leases as l
        on l.account_id = s.id and l.expires_at > now() and to_jsonb(l) ->> 'lane' is distinct from 'history'
    where s.source_app = p_source_app and s.is_active
$$;

create or replace function import_pipeline.account_health(p_source_app text, p_user_ids uuid[])
returns table (
    account_id uuid, user_id uuid, label text, source_app text, account_email text, is_active boolean,
    has_credential boolean, created_at timestamptz, last_sync_at timestamptz, error_message text,
    imported bigint, waiting bigint, failed bigint, ignored bigint, new_since_yesterday bigint,
    oldest_waiting_at timestamptz, next_retry_at timestamptz, next_sync_at timestamptz,
    last_run_status text, last_run_at timestamptz, last_run_error text,
    progress_current integer, progress_total integer
)
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    -- Executed as text, because then it is planned with the arguments: one user's items come from an index, those of
    -- everybody from one pass.
    return query execute $query$
        with items as materialized (
            select
                i.user_id,
                i.source_app,
                count(*) filter (where i.status = 'imported') as imported,
                count(*) filter (where i.status = 'waiting') as waiting,
                count(*) filter (where i.status = 'failed') as failed,
                count(*) filter (where i.status = 'ignored') as ignored,
                count(*) filter (
                    where i.status = 'imported' and i.run_id is not null and i.updated_at > now() - interval '1 day'
                ) as new_since_yesterday,
                min(coalesce(i.started_at, i.first_seen_at)) filter (where i.status = 'waiting') as oldest_waiting_at,
                min(i.retry_at) filter (where i.status in ('waiting', 'failed')) as next_retry_at,
                min(i.retry_at) filter (
                    where i.status in ('waiting', 'failed') and i.retry_at > now()
                ) as coming_retry_at
            from public.import_items as i
            where ($1 is null or i.source_app = $1) and ($2 is null or i.user_id = any ($2))
            group by i.user_id, i.source_app
        )
        select
            s.id,
            s.user_id,
            coalesce(u.email, left(s.account_email, 320), s.user_id::text)::text,
            s.source_app::text,
            left(s.account_email::text, 320),
            s.is_active,
            exists (select from import_pipeline.credentials as c where c.account_id = s.id),
            coalesce(import_pipeline.known_time(s.created_at), to_timestamp(0)),
            import_pipeline.known_cursor(s.last_sync_at),
            left(s.error_message::text, 2000),
            coalesce(items.imported, 0),
            coalesce(items.waiting, 0),
            coalesce(items.failed, 0),
            coalesce(items.ignored, 0),
            coalesce(items.new_since_yesterday, 0),
            import_pipeline.known_time(items.oldest_waiting_at),
            items.next_retry_at,
            case
                when s.is_active
                -- What was due already when the last run looked, and still is, brings no run about.
                then greatest(
                    polls.not_before,
                    least(
                        coalesce(polls.due_at, now()),
                        items.coming_retry_at,
                        case when items.next_retry_at > polls.polled_at then items.next_retry_at end
                    )
                )
            end,
            run.status,
            run.started_at,
            run.error,
            run.progress_current,
            run.progress_total
        from public.import_sources as s
        left join auth.users as u on u.id = s.user_id
        left join items on items.user_id = s.user_id and items.source_app = s.source_app
        left join import_pipeline.polls on polls.account_id = s.id
        left join lateral (
            select
                left(j.status::text, 100) as status, import_pipeline.known_time(j.started_at) as started_at,
                left(j.error::text, 2000) as error, j.progress_current, j.progress_total
            from public.sync_jobs as j
            where j.metadata ->> 'account_id' = s.id::text and j.user_id = s.user_id
            order by j.created_at desc
            limit 1
        ) as run on true
        where ($1 is null or s.source_app = $1) and ($2 is null or s.user_id = any ($2))
        $query$
        using p_source_app, p_user_ids;
end
$$;

create or replace function import_pipeline.overdue_items(p_source_app text, p_before timestamptz, p_limit integer)
returns table (
    total bigint, user_id uuid, label text, external_id text, title text, waiting_since timestamptz,
    retry_at timestamptz, reason text
)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select
        count(*) over (),
        i.user_id,
        coalesce(u.email, i.user_id::text)::text,
        i.external_id,
        i.title,
        import_pipeline.known_time(coalesce(i.started_at, i.first_seen_at)),
        i.retry_at,
        i.error_message
    from public.import_items as i
    left join auth.users as u on u.id = i.user_id
    where i.source_app = p_source_app and i.status = 'waiting' and coalesce(i.started_at, i.first_seen_at) < p_before
    order by coalesce(i.started_at, i.first_seen_at), i.user_id, i.external_id
    limit p_limit
$$;


-- 3. Runs that ended without a word ---------------------------------------------------------------------------------

create or replace function import_pipeline.silent_sync_jobs(p_limit integer)
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
