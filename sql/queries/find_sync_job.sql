-- Returns how many items an account's run has listed and skipped so far, if nobody has closed its row.
select progress_total, skipped_count
from public.sync_jobs
where id = %(id)s and user_id = %(user_id)s and status = 'processing'
