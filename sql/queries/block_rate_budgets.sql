-- Notes that the provider asked for silence on these budgets of an account; a longer silence stays. Returns its ends.
insert into import_pipeline.rate_budgets as budget (account_id, name, blocked_until)
select %(account_id)s, name, clock_timestamp() + make_interval(secs => %(seconds)s)
from unnest(%(names)s::text[]) as name
on conflict (account_id, name) do update
set blocked_until = greatest(budget.blocked_until, excluded.blocked_until), updated_at = clock_timestamp()
returning blocked_until
