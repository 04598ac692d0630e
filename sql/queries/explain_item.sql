-- Returns all the ledger knows of the items with this id or at this place, and whether their recordings exist.
select
    import_items.source_app, import_items.external_id, import_items.status, import_items.title, import_items.location,
    import_items.started_at, import_items.attempts, import_items.error_class, import_items.error_message,
    import_items.http_status, import_items.request_id, import_items.retry_at, import_items.run_id, import_items.first_seen_at, import_items.updated_at,
    import_items.recording_id, recordings.title as recording_title,
    import_pipeline.known_time(recordings.created_at) as recording_created_at,
    recordings.bank_id
from public.import_items
left join public.recordings on recordings.id = import_items.recording_id
where import_items.user_id = %(user_id)s
    and (import_items.external_id = any(%(ids)s::text[]) or import_items.location = any(%(ids)s::text[]))
order by import_items.status = 'ignored', import_items.updated_at desc
limit 50
