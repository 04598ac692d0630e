-- Returns external id and recording id of those of the given ids that the user already has from this source: of several,
-- the one that was imported (see the migration tell_copies_from_imports), else the oldest.
-- `= any` on the indexed expression: joins and `exists` lose the index on a table without statistics.
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
