-- Writes what became of items and returns their rows. What is imported stays imported, by the run that did it; of such an
-- item that came to less this time there is no row.
insert into public.import_items as ledger (
    user_id, source_app, external_id, status, recording_id, title, location, started_at,
    attempts, error_class, error_message, retry_at, http_status, request_id, run_id
)
select
    %(user_id)s, %(source_app)s, external_id, status, recording_id, title, location, started_at,
    attempts, error_class, error_message, retry_at, http_status, request_id, run_id
from unnest(
    %(external_id)b::text[], %(status)b::text[], %(recording_id)b::uuid[], %(title)b::text[], %(location)b::text[],
    %(started_at)b::timestamptz[], %(attempts)b::integer[], %(error_class)b::text[], %(error_message)b::text[],
    %(retry_at)b::timestamptz[], %(http_status)b::integer[], %(request_id)b::text[], %(run_id)b::text[]
) as new (
    external_id, status, recording_id, title, location, started_at, attempts, error_class, error_message, retry_at,
    http_status, request_id, run_id
)
on conflict (user_id, source_app, external_id) do update
set status = excluded.status,
    recording_id = excluded.recording_id,
    title = coalesce(excluded.title, ledger.title),
    location = coalesce(excluded.location, ledger.location),
    started_at = coalesce(excluded.started_at, ledger.started_at),
    attempts = ledger.attempts + excluded.attempts,
    error_class = excluded.error_class,
    error_message = excluded.error_message,
    retry_at = excluded.retry_at,
    http_status = excluded.http_status,
    request_id = excluded.request_id,
    run_id = case
        when ledger.recording_id = excluded.recording_id then coalesce(ledger.run_id, excluded.run_id)
        else excluded.run_id
    end,
    updated_at = now()
where not (ledger.status = 'imported' and ledger.recording_id is not null and excluded.status <> 'imported')
returning external_id, status, run_id
