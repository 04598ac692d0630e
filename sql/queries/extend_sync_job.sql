-- Adds to the number of items that one account's run has to work on.
update public.sync_jobs
set progress_total = coalesce(progress_total, 0) + %(listed)s, updated_at = now()
where id = %(id)s and user_id = %(user_id)s
