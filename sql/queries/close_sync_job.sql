-- Closes the row of one account's run with its status, its counts and, where they fit, the ids. What somebody has
-- locked stays open until the sensor settle_runs comes by.
update public.sync_jobs
set status = %(status)s,
    completed_at = now(),
    error = %(error)s,
    skipped_count = least(%(skipped)s::bigint, 2147483647),
    progress_current = least(%(done)s::bigint, 2147483647),
    progress_total = least(%(listed)s::bigint, 2147483647),
    metadata = metadata || jsonb_build_object(
        'counts', %(counts)s::jsonb, 'without_vault_entry', %(without_vault_entry)s::integer,
        'error_class', %(error_class)s::text, 'warning', %(warning)s::text
    ),
    updated_at = now()
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)
