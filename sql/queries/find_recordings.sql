-- Returns external id and recording id of those of the given ids that the user already has from this source.
-- `= any` on the indexed expression: joins and `exists` lose the index on a table without statistics.
select source_metadata ->> 'external_id', id
from public.recordings
where owner_user_id = %(user_id)s
    and source_app = %(source_app)s
    and (source_metadata ->> 'external_id') = any(%(external_ids)b::text[])
