-- Returns the user's recordings with this external id, of any source: for calls that the ledger does not know.
select
    source_app, source_metadata ->> 'external_id' as external_id, id as recording_id, title,
    import_pipeline.known_time(created_at) as created_at
from public.recordings
where owner_user_id = %(user_id)s and (source_metadata ->> 'external_id') = any(%(ids)s::text[])
limit 50
