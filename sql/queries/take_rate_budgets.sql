-- Counts a request on the budgets of an account if all have room; returns how long to wait otherwise.
select wait_seconds, blocked, taken_at, used
from import_pipeline.take_rate_budgets(
    %(account_id)s, %(names)s, %(allowed)s::integer[], %(seconds)s::float8[], %(lane)s
)
