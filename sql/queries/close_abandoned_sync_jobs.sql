-- Closes the rows that crashed runs of an account left open, and returns the runs; one that lent its lease goes on.
update public.sync_jobs
set status = 'failed', error = %(error)s, completed_at = now(), updated_at = now()
where user_id = %(user_id)s
    and metadata ->> 'account_id' = %(account_id)s
    and metadata ->> 'run_id' <> %(run_id)s
    and metadata ->> 'run_id' is distinct from (
        select lent_by from import_pipeline.leases where account_id = %(account_id)s::uuid
    )
    and status = 'processing'
returning metadata ->> 'run_id'
