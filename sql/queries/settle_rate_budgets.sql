-- Counts an answered request from now on.
select import_pipeline.settle_rate_budgets(%(account_id)s, %(names)s, %(seconds)s::float8[], %(taken_at)s)
