-- Closes the row of one account's run with its status, its counts and, where they fit, the ids.
update public.sync_jobs
set status = %(status)s,
    completed_at = now(),
    error = %(error)s,
    skipped_count = %(skipped)s,
    progress_current = %(done)s,
    progress_total = %(listed)s,
    metadata = metadata || jsonb_build_object(
        'counts', %(counts)s::jsonb, 'without_vault_entry', %(without_vault_entry)s::integer,
        'error_class', %(error_class)s::text, 'warning', %(warning)s::text
    ),
    updated_at = now()
where id = %(id)s and user_id = %(user_id)s
