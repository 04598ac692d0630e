-- Counts an answered request from `sooner` seconds ago on.
select import_pipeline.settle_rate_budgets(
    %(account_id)s, %(names)s, %(seconds)s::float8[], %(taken_at)s, %(sooner)s
)
