-- Notes how the last run of an account ended; the cursor never moves back, but from where it cannot have been.
update public.import_sources
set last_sync_at = coalesce(
        greatest(import_pipeline.known_cursor(last_sync_at), %(last_sync_at)s::timestamptz), last_sync_at
    ),
    error_message = %(problem)s,
    updated_at = now()
where id = %(id)s and user_id = %(user_id)s
