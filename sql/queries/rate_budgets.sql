-- block_rate_budgets: Notes that the provider asked for silence on these budgets of an account; a longer silence stays.
-- Returns its ends.
insert into import_pipeline.rate_budgets as budget (account_id, name, blocked_until)
select %(account_id)s, name, clock_timestamp() + make_interval(secs => %(seconds)s)
from unnest(%(names)s::text[]) as name
on conflict (account_id, name) do update
set blocked_until = greatest(budget.blocked_until, excluded.blocked_until), updated_at = clock_timestamp()
returning blocked_until

-- settle_rate_budgets: Counts an answered request from `sooner` seconds ago on.
select import_pipeline.settle_rate_budgets(
    %(account_id)s, %(names)s, %(seconds)s::float8[], %(taken_at)s, %(sooner)s
)

-- take_rate_budgets: Counts a request on the budgets of an account if all have room; returns how long to wait
-- otherwise.
select wait_seconds, blocked, taken_at, used
from import_pipeline.take_rate_budgets(
    %(account_id)s, %(names)s, %(allowed)s::integer[], %(seconds)s::float8[], %(lane)s
)
