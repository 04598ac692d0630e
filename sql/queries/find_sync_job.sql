-- Returns how the row of an account's run stands, and how many items it has listed and skipped so far.
select status, progress_total, skipped_count
from public.sync_jobs
where id = %(id)s and user_id = %(user_id)s
