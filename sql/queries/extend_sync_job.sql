-- Adds to the number of items that one account's run has to work on; nothing happens to a row that somebody has locked.
update public.sync_jobs
set progress_total = least(coalesce(progress_total, 0)::bigint + %(listed)s, 2147483647), updated_at = now()
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)
