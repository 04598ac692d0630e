-- Returns how the active accounts of a source stand (all, in work, due, when the next of the others is due), and beside
-- it those to ask a run for: longest due first, and those never imported before all others.
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
