-- Returns owner and id of the next recordings of these sources that are in no vault, for the job that repairs them.
select owner_user_id, id
from public.recordings
where source_app = any(%(source_apps)s::text[])
    and id > %(after)s
    and not exists (select from public.vault_entries where vault_entries.recording_id = recordings.id)
order by id
limit %(limit)s
