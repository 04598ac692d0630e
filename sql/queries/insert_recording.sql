-- Inserts one recording and returns its id, or no row when the user already has this call of this source.
insert into public.recordings (
    bank_id, owner_user_id, title, audio_url, video_url, full_transcript, summary, global_tags,
    source_app, source_metadata, duration, recording_start_time, recording_end_time, synced_at
)
values (
    %(bank_id)s, %(owner_user_id)s, %(title)s, %(audio_url)s, %(video_url)s, %(full_transcript)s, %(summary)s, '{}',
    %(source_app)s, %(source_metadata)s, %(duration)s, %(recording_start_time)s, %(recording_end_time)s, now()
)
on conflict (owner_user_id, source_app, (source_metadata ->> 'external_id')) do nothing
returning id
