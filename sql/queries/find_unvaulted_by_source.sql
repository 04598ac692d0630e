-- Returns recordings of these sources that are in no vault: so many of each source, with the number of all of them.
select source_app, total, owner_user_id as user_id, id as recording_id, title
from (
    select
        source_app, owner_user_id, id, title,
        count(*) over (partition by source_app) as total,
        row_number() over (partition by source_app order by created_at desc, id) as position
    from public.recordings
    where source_app = any(%(source_apps)s::text[])
        and not exists (select from public.vault_entries where vault_entries.recording_id = recordings.id)
) as numbered
where position <= %(limit)s
order by source_app, position
