-- Returns calls of these sources that a user has more than once in a bank: so many of each source, with the number of all
-- of them.
select source_app, total, owner_user_id as user_id, external_id, copies
from (
    select
        groups.*,
        count(*) over (partition by source_app) as total,
        row_number() over (partition by source_app order by owner_user_id, external_id, bank_id) as position
    from (
        select source_app, owner_user_id, source_metadata ->> 'external_id' as external_id, bank_id, count(*) as copies
        from public.recordings
        where source_app = any(%(source_apps)s::text[]) and source_metadata ->> 'external_id' is not null
        group by 1, 2, 3, 4
        having count(*) > 1
    ) as groups
) as numbered
where position <= %(limit)s
order by source_app, position
