-- Returns the failed items of one user, newest first, for people.
select
    source_app, external_id, title, location, error_class, error_message, http_status, request_id, attempts, retry_at,
    run_id, updated_at
from public.import_items
where user_id = %(user_id)s
    and status = 'failed'
    and (%(source_app)s::text is null or source_app = %(source_app)s)
    and (%(run_id)s::text is null or run_id = %(run_id)s)
order by updated_at desc, external_id
limit %(limit)s
