-- Moves the progress of one account's run forward, in the transaction that writes the items. Whoever does that is
-- working: a row that was settled when the run broke is open again while it is re-executed. The row may be its user's
-- to lock and to fill with any number: neither keeps the items from being written.
update public.sync_jobs
set status = 'processing',
    completed_at = null,
    error = null,
    progress_current = least(coalesce(progress_current, 0)::bigint + %(done)s, 2147483647),
    skipped_count = least(coalesce(skipped_count, 0)::bigint + %(skipped)s, 2147483647),
    updated_at = now()
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)
