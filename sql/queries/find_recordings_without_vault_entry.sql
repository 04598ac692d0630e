-- Returns those of the given recordings that are in no vault, each with the personal vault of its bank (or null).
select
    recordings.id,
    (
        select vaults.id
        from public.vaults
        where vaults.bank_id = recordings.bank_id and vaults.vault_type = 'personal'
        order by vaults.id
        limit 1
    )
from public.recordings
where recordings.id = any(%(recording_ids)s::uuid[])
    and not exists (select from public.vault_entries where vault_entries.recording_id = recordings.id)
