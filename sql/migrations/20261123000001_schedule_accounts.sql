-- When each account is asked for new calls again: what schedules and sensors go by.


-- 1. What was asked for, and what came of it ------------------------------------------------------------------------

create table import_pipeline.polls (
    account_id uuid not null,
    attempts integer not null default 0,
    requested_at timestamptz,
    not_before timestamptz,
    due_at timestamptz,
    polled_at timestamptz,
    constraint polls_pkey primary key (account_id),
    constraint polls_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade,
    constraint polls_attempts_check check (attempts >= 0)
);
alter table import_pipeline.polls enable row level security;
comment on table import_pipeline.polls is 'When an account is due for a run; without a row it is due at once.';
comment on column import_pipeline.polls.attempts is 'Runs that were asked for since the last one that went well.';
comment on column import_pipeline.polls.requested_at is 'When a run was asked for that has not come to its end yet.';
comment on column import_pipeline.polls.not_before is 'No run is asked for before this moment, whatever is due.';
comment on column import_pipeline.polls.due_at is 'When to look for something new; null: at once.';
comment on column import_pipeline.polls.polled_at is 'When the last run that went well took the account.';

revoke all on import_pipeline.polls from public, anon, authenticated;
grant select, insert, update, delete on import_pipeline.polls to import_worker;
create policy "Import worker keeps polls" on import_pipeline.polls
    for all to import_worker using (true) with check (true);


-- 2. Which accounts are due -----------------------------------------------------------------------------------------

drop function import_pipeline.due_accounts(text);

create function import_pipeline.due_accounts(p_source_app text)
returns table (
    id uuid, user_id uuid, last_sync_at timestamptz, attempts integer, is_unanswered boolean, is_held boolean,
    due_at timestamptz, not_before timestamptz
)
language sql
stable security definer
set search_path = ''
as $$
    select
        s.id, s.user_id, s.last_sync_at, coalesce(p.attempts, 0), p.requested_at is not null, l.account_id is not null,
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
comment on function import_pipeline.due_accounts(text) is
    'When each active account of a source is due for a run, whether a live run holds it, and how the last ones went.';

revoke all on function import_pipeline.due_accounts(text) from public, anon, authenticated, service_role;
grant execute on function import_pipeline.due_accounts(text) to import_worker;
