-- How accounts are, and when they are due: for runs, `status`, the assets and their checks, so that all say the same.
--
-- A database that was migrated before 2026-12-01 has these functions in an earlier form, and a column that they read.
-- It counts as migrated up to the file before this one, so that this one runs there too.

drop function if exists
    import_pipeline.find_accounts(text, uuid[]),
    import_pipeline.due_accounts(text),
    import_pipeline.account_health(text, uuid[]),
    import_pipeline.overdue_items(text, timestamptz, integer);
alter table import_pipeline.polls drop column if exists polled_at;


-- 1. The accounts of a run, and those that are due ------------------------------------------------------------------

create function import_pipeline.find_accounts(p_source_app text, p_user_ids uuid[])
returns table (
    id uuid, user_id uuid, source_app text, account_email text, last_sync_at timestamptz, email text
)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select
        s.id, s.user_id, s.source_app::text, left(s.account_email::text, 320),
        import_pipeline.known_cursor(s.last_sync_at), u.email::text
    from public.import_sources as s
    left join auth.users as u on u.id = s.user_id
    where s.source_app = p_source_app
        and (s.user_id = any (p_user_ids) or (p_user_ids is null and s.is_active))
    order by 5 nulls first, s.id
$$;
comment on function import_pipeline.find_accounts(text, uuid[]) is
    'Accounts of a source: those of the given users, active or not; given null, all active ones.';

create function import_pipeline.due_accounts(p_source_app text)
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
                            and i.status = 'waiting' and i.retry_at > s.last_sync_at
                    ),
                    (
                        select min(i.retry_at)
                        from public.import_items as i
                        where i.user_id = s.user_id and i.source_app = p_source_app
                            and i.status = 'failed' and i.retry_at > s.last_sync_at
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
    -- A run of history makes room for a live one as soon as it waits.
    left join import_pipeline.leases as l
        on l.account_id = s.id and l.expires_at > now() and l.lane <> 'history'
    where s.source_app = p_source_app and s.is_active
$$;
comment on function import_pipeline.due_accounts(text) is
    'When each active account of a source is due for a run, whether a live run holds it, and how the last ones went.';


-- 2. How the accounts are -------------------------------------------------------------------------------------------

create function import_pipeline.account_health(p_source_app text, p_user_ids uuid[])
returns table (
    account_id uuid, user_id uuid, label text, source_app text, account_email text, is_active boolean,
    has_credential boolean, created_at timestamptz, last_sync_at timestamptz, error_message text,
    imported bigint, waiting bigint, failed bigint, ignored bigint, new_since_yesterday bigint,
    next_retry_at timestamptz, next_sync_at timestamptz,
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
            items.next_retry_at,
            case
                when s.is_active
                -- What was due already when the last run looked, and still is, brings no run about.
                then greatest(
                    polls.not_before,
                    least(
                        coalesce(polls.due_at, now()),
                        items.coming_retry_at,
                        case when items.next_retry_at > s.last_sync_at then items.next_retry_at end
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
comment on function import_pipeline.account_health(text, uuid[]) is
    'How each account is: of one source or (null) of all, of the given users or (null) of everybody.';


-- 3. Items that wait for too long -----------------------------------------------------------------------------------

create function import_pipeline.overdue_items(p_source_app text, p_before timestamptz, p_limit integer)
returns table (
    total bigint, label text, external_id text, title text, waiting_since timestamptz,
    retry_at timestamptz, reason text
)
language sql
stable security definer
set search_path = '', pg_temp
as $$
    select
        count(*) over (),
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
comment on function import_pipeline.overdue_items(text, timestamptz, integer) is
    'Items of a source that wait since before a time, the oldest first, and how many there are in total.';

revoke all on function
    import_pipeline.find_accounts(text, uuid[]),
    import_pipeline.due_accounts(text),
    import_pipeline.account_health(text, uuid[]),
    import_pipeline.overdue_items(text, timestamptz, integer)
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.find_accounts(text, uuid[]),
    import_pipeline.due_accounts(text),
    import_pipeline.account_health(text, uuid[]),
    import_pipeline.overdue_items(text, timestamptz, integer)
    to import_worker;
