-- find_due_accounts: Returns how the active accounts of a source stand (all, in work, due, when the next of the others
-- is due), and beside it those to ask a run for: longest due first, and those never imported before all others.
with account as materialized (
    select
        *,
        is_held or user_id = any(%(busy)s::uuid[]) as is_busy,
        due_at <= now() + make_interval(secs => %(slack_seconds)s) and not_before <= now() as is_due,
        greatest(due_at, not_before) as next_at
    from import_pipeline.due_accounts(%(source_app)s)
),
counted as (
    select
        count(*) as accounts,
        count(*) filter (where is_busy) as busy,
        count(*) filter (where is_due and not is_busy) as due,
        min(next_at) filter (where not is_due and not is_busy) as next_at
    from account
),
chosen as (
    select
        id, user_id, attempts, is_unanswered, last_sync_at is null as is_new,
        row_number() over (order by next_at, last_sync_at nulls first, id)
    from account
    where is_due and not is_busy
    order by next_at, last_sync_at nulls first, id
    limit %(limit)s
)
select accounts, busy, due, next_at, id, user_id, attempts, is_unanswered, is_new
from counted left join chosen on true
order by row_number

-- forget_poll: Makes an account due at once.
delete from import_pipeline.polls where account_id = %(account_id)s

-- lock_polls: Let one process at a time ask for runs; who closes a run need not wait for it.
lock table import_pipeline.polls in share update exclusive mode

-- pause_poll: Notes that a run of an account which a sensor or schedule asked for broke off: the pause counts from now.
update import_pipeline.polls as poll
set not_before = now() + make_interval(
    secs => least(%(first_pause)s * 2 ^ (least(greatest(poll.attempts, 1), 20) - 1), %(longest_pause)s)
)
where account_id = %(account_id)s and requested_at is not null

-- postpone_poll: Notes that a run of an account had a problem: it is due, but not before a pause that grows.
insert into import_pipeline.polls as poll (account_id, attempts, not_before, due_at)
select id, 1, now() + make_interval(secs => greatest(%(first_pause)s, %(shortest_pause)s)), now()
from public.import_sources
where id = %(account_id)s
on conflict (account_id) do update
set attempts = greatest(poll.attempts, 1),
    requested_at = null,
    not_before = now() + make_interval(
        secs => greatest(
            least(%(first_pause)s * 2 ^ (least(greatest(poll.attempts, 1), 20) - 1), %(longest_pause)s),
            %(shortest_pause)s
        )
    ),
    due_at = now()

-- request_polls: Notes that runs are asked for, and returns of which accounts: of those that nobody else has locked.
select import_pipeline.request_polls(%(account_ids)s::uuid[], %(first_pause)s, %(longest_pause)s)

-- settle_poll: Notes that a run of an account went well, and when to look for something new.
insert into import_pipeline.polls (account_id, due_at)
select id, %(opened_at)s::timestamptz + make_interval(secs => %(interval_seconds)s)
from public.import_sources
where id = %(account_id)s
on conflict (account_id) do update
set attempts = 0, requested_at = null, not_before = null, due_at = excluded.due_at
