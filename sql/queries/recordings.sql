-- count_recordings: Returns how many recordings of which source the user has.
select source_app, count(*)
from public.recordings
where owner_user_id = %(user_id)s
group by 1
order by 1

-- defer_constraints: Put them off again, as the owner wants it.
set constraints all deferred

-- find_destinations: Returns the banks of the user that a recording may belong to, each with the vault it would be put
-- into: the given bank, else the one of the given vault, else his personal ones. The vault is the given one if it lies
-- in the bank and he may write there or, when none is given, his personal one in the bank. Last, whether the given one
-- lies in the bank at all.
select
    banks.id,
    case
        when %(vault_id)s::uuid is null then (
            select defaults.vault_id from import_pipeline.default_vaults() as defaults where defaults.bank_id = banks.id
        )
        when given.id = any ((select import_pipeline.enterable_vault_ids())::uuid[]) then given.id
    end,
    given.id is not null
from public.banks
left join public.vaults as given on given.bank_id = banks.id and given.id = %(vault_id)s::uuid
where exists (
        select
        from public.bank_memberships
        where bank_memberships.bank_id = banks.id and bank_memberships.user_id = %(user_id)s
    )
    and case
        when %(bank_id)s::uuid is not null then banks.id = %(bank_id)s::uuid
        when %(vault_id)s::uuid is not null then
            banks.id = (select vaults.bank_id from public.vaults where vaults.id = %(vault_id)s::uuid)
        else banks.type = 'personal'
    end

-- find_recordings: Returns external id and recording id of those of the given ids that the user already has from this
-- source: of several, the one that was imported (see the migration tell_copies_from_imports), else the oldest. `= any`
-- on the indexed expression: joins and `exists` lose the index on a table without statistics.
select distinct on (external_id) external_id, id
from (
    select
        source_metadata ->> 'external_id' as external_id,
        id,
        substr(uuid_send(id), 13) = '\x696d7074'::bytea as is_imported,
        created_at
    from public.recordings
    where owner_user_id = %(user_id)s
        and source_app = %(source_app)s
        and (source_metadata ->> 'external_id') = any(%(external_ids)b::text[])
) as found
order by external_id, is_imported desc, created_at, id

-- find_recordings_without_vault_entry: Returns those of the given recordings that are in no vault, each with the
-- claimed user's personal vault of its bank.
select recordings.id, defaults.vault_id
from public.recordings
left join import_pipeline.default_vaults() as defaults on defaults.bank_id = recordings.bank_id
where recordings.id = any(%(recording_ids)s::uuid[])
    and not exists (select from public.vault_entries where vault_entries.recording_id = recordings.id)

-- insert_recordings: Inserts recordings and returns id, source and external id of each; those that the user already has
-- give no row. One statement for all is planned once; the arrays are sent in binary. What was imported by us the unique
-- index refuses, whoever else inserts at the same time; what is there otherwise, from an older importer or as a copy,
-- is looked up.
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

-- insert_vault_entries: Puts recordings into vaults; nothing happens to those that are there already.
insert into public.vault_entries (vault_id, recording_id)
select vault_id, recording_id from unnest(%(vault_id)b::uuid[], %(recording_id)b::uuid[]) as new (vault_id, recording_id)
on conflict (vault_id, recording_id) do nothing

-- judge_constraints: Let constraints and triggers that the owner put off until the commit judge now.
set constraints all immediate

-- page_unvaulted: Returns owner and id of the next recordings of these sources that are in no vault, for the job that
-- repairs them.
select owner_user_id, id
from public.recordings
where source_app = any(%(source_apps)s::text[])
    and id > %(after)s
    and not exists (select from public.vault_entries where vault_entries.recording_id = recordings.id)
order by id
limit %(limit)s
