-- Closes the rows of items that had failed or waited under a provisional key and have an id of their own now.
update public.import_items
set status = 'ignored',
    error_class = null,
    error_message = 'settled: what is at this place now has been imported',
    retry_at = null,
    http_status = null,
    request_id = null,
    run_id = %(run_id)s,
    updated_at = now()
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and external_id = any(%(provisional_ids)s::text[])
    and status in ('failed', 'waiting')
