-- Closes the rows that crashed runs of an account left open, and returns the runs; one that lent its lease goes on.
-- A row that somebody has locked stays open until the next run, but its run is returned as well.
with abandoned as (
    select id, metadata ->> 'run_id' as run_id
    from public.sync_jobs
    where user_id = %(user_id)s
        and metadata ->> 'account_id' = %(account_id)s
        and metadata ->> 'run_id' <> %(run_id)s
        and metadata ->> 'run_id' is distinct from (
            select lent_by from import_pipeline.leases where account_id = %(account_id)s::uuid
        )
        and status = 'processing'
), closed as (
    update public.sync_jobs
    set status = 'failed', error = %(error)s, completed_at = now(), updated_at = now()
    where id in (
        select id from public.sync_jobs where id in (select id from abandoned) for no key update skip locked
    )
)
select run_id from abandoned
