-- Moves the progress of one account's run forward, in the transaction that writes the items.
update public.sync_jobs
set progress_current = coalesce(progress_current, 0) + %(done)s,
    skipped_count = coalesce(skipped_count, 0) + %(skipped)s,
    updated_at = now()
where id = %(id)s and user_id = %(user_id)s
