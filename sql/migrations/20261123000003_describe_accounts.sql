-- What is said about accounts: one function, asked by the command `status`, by the assets and by their checks, so that
-- all of them say the same.


-- 1. The last run of an account -------------------------------------------------------------------------------------
-- Without it the last of many thousand runs would be looked for among all runs of a user. Rows of the owner's own jobs
-- name no account and are not in it.

create index if not exists sync_jobs_account_idx
    on public.sync_jobs ((metadata ->> 'account_id'), created_at desc)
    where metadata ->> 'account_id' is not null;


-- 2. How the accounts are ------------------------------------------------------------------------------------------

create function import_pipeline.account_health(p_source_app text, p_user_ids uuid[])
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
set search_path = ''
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
            coalesce(u.email, s.account_email, s.user_id::text)::text,
            s.source_app::text,
            s.account_email::text,
            s.is_active,
            exists (select from import_pipeline.credentials as c where c.account_id = s.id),
            s.created_at,
            s.last_sync_at,
            s.error_message::text,
            coalesce(items.imported, 0),
            coalesce(items.waiting, 0),
            coalesce(items.failed, 0),
            coalesce(items.ignored, 0),
            coalesce(items.new_since_yesterday, 0),
            items.oldest_waiting_at,
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
            select j.status::text, j.started_at, j.error::text, j.progress_current, j.progress_total
            from public.sync_jobs as j
            where j.metadata ->> 'account_id' = s.id::text
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


-- 3. Items that wait for too long ----------------------------------------------------------------------------------

create function import_pipeline.overdue_items(p_source_app text, p_before timestamptz, p_limit integer)
returns table (
    total bigint, user_id uuid, label text, external_id text, title text, waiting_since timestamptz,
    retry_at timestamptz, reason text
)
language sql
stable security definer
set search_path = ''
as $$
    select
        count(*) over (),
        i.user_id,
        coalesce(u.email, i.user_id::text)::text,
        i.external_id,
        i.title,
        coalesce(i.started_at, i.first_seen_at),
        i.retry_at,
        i.error_message
    from public.import_items as i
    left join auth.users as u on u.id = i.user_id
    where i.source_app = p_source_app and i.status = 'waiting' and coalesce(i.started_at, i.first_seen_at) < p_before
    order by 6, i.user_id, i.external_id
    limit p_limit
$$;
comment on function import_pipeline.overdue_items(text, timestamptz, integer) is
    'Items of a source that wait since before a time, the oldest first, and how many there are in total.';


-- 4. Names for people ----------------------------------------------------------------------------------------------

create function import_pipeline.name_users(p_user_ids uuid[])
returns table (user_id uuid, label text)
language sql
stable security definer
set search_path = ''
as $$
    select u.id, coalesce(u.email, u.id::text)::text from auth.users as u where u.id = any (p_user_ids)
$$;
comment on function import_pipeline.name_users(uuid[]) is 'The e-mail addresses of users, for tables that people read.';

revoke all on function
    import_pipeline.account_health(text, uuid[]),
    import_pipeline.overdue_items(text, timestamptz, integer),
    import_pipeline.name_users(uuid[])
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.account_health(text, uuid[]),
    import_pipeline.overdue_items(text, timestamptz, integer),
    import_pipeline.name_users(uuid[])
    to import_worker;
