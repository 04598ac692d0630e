-- Notes how the last run of an account ended; the cursor never moves back.
update public.import_sources
set last_sync_at = greatest(last_sync_at, %(last_sync_at)s::timestamptz),
    error_message = %(problem)s,
    updated_at = now()
where id = %(id)s and user_id = %(user_id)s
