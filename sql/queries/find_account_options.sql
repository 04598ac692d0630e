-- Returns what an account imports besides what its credential says.
select options from import_pipeline.credentials where account_id = %(account_id)s
