-- Returns those of the given recordings that are in no vault, each with the claimed user's personal vault of its bank.
select recordings.id, defaults.vault_id
from public.recordings
left join import_pipeline.default_vaults() as defaults on defaults.bank_id = recordings.bank_id
where recordings.id = any(%(recording_ids)s::uuid[])
    and not exists (select from public.vault_entries where vault_entries.recording_id = recordings.id)
