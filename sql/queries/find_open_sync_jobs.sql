-- Returns the rows of an account that other runs have opened and not closed, oldest first. Users may write such rows, so
-- not all of them at once.
select id, metadata ->> 'run_id'
from public.sync_jobs
where user_id = %(user_id)s
    and metadata ->> 'account_id' = %(account_id)s
    and metadata ->> 'run_id' <> %(run_id)s
    and status = 'processing'
order by updated_at
limit 100
