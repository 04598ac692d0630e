-- Writes what became of one item and returns its row. What is imported stays imported, by the run that did it.
insert into public.import_items as ledger (
    user_id, source_app, external_id, status, recording_id, title, location, started_at,
    attempts, error_class, error_message, retry_at, http_status, request_id, run_id
)
values (
    %(user_id)s, %(source_app)s, %(external_id)s, %(status)s, %(recording_id)s, %(title)s, %(location)s, %(started_at)s,
    %(attempts)s, %(error_class)s, %(error_message)s, %(retry_at)s, %(http_status)s, %(request_id)s, %(run_id)s
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
