-- Inserts recordings and returns id, source and external id of each; those that the user already has give no row.
-- One statement for all is planned once; the arrays are sent in binary. What was imported by us the unique index refuses,
-- whoever else inserts at the same time; what is there otherwise, from an older importer or as a copy, is looked up.
insert into public.recordings (
    id, bank_id, owner_user_id, title, audio_url, video_url, full_transcript, summary, global_tags,
    source_app, source_metadata, duration, recording_start_time, recording_end_time, synced_at
)
select
    id, bank_id, %(owner_user_id)s, title, audio_url, video_url, full_transcript, summary, '{}',
    source_app, source_metadata, duration, recording_start_time, recording_end_time, now()
from unnest(
    %(id)b::uuid[], %(bank_id)b::uuid[], %(title)b::text[], %(audio_url)b::text[], %(video_url)b::text[],
    %(full_transcript)b::text[], %(summary)b::text[], %(source_app)b::text[], %(external_id)b::text[],
    %(source_metadata)b::jsonb[], %(duration)b::integer[], %(recording_start_time)b::timestamptz[],
    %(recording_end_time)b::timestamptz[]
) as new (
    id, bank_id, title, audio_url, video_url, full_transcript, summary, source_app, external_id, source_metadata,
    duration, recording_start_time, recording_end_time
)
where (source_app, external_id) not in (
    select there.source_app, there.source_metadata ->> 'external_id'
    from public.recordings as there
    where there.owner_user_id = %(owner_user_id)s
        and there.source_app = any(%(source_app)b::text[])
        and (there.source_metadata ->> 'external_id') = any(%(external_id)b::text[])
)
on conflict (
    owner_user_id, source_app, (source_metadata ->> 'external_id'),
    (case when substr(uuid_send(id), 13) = '\x696d7074'::bytea then true end)
) do nothing
returning id, source_app, source_metadata ->> 'external_id'
