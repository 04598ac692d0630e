-- Moves the progress of one account's run forward, in the transaction that writes the items.
-- Whoever does that is working: a row that was settled when the run broke is open again while it is re-executed.
update public.sync_jobs
set status = 'processing',
    completed_at = null,
    error = null,
    progress_current = coalesce(progress_current, 0) + %(done)s,
    skipped_count = coalesce(skipped_count, 0) + %(skipped)s,
    updated_at = now()
where id = %(id)s and user_id = %(user_id)s
