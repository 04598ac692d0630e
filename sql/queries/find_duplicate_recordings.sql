-- Returns each call of one source that a user has more than once in a bank, with its rows, oldest first. In another bank
-- it is a copy of his, and no duplicate.
select
    owner_user_id,
    source_app,
    source_metadata ->> 'external_id',
    array_agg(id order by created_at, id),
    array_agg(title order by created_at, id)
from public.recordings
where owner_user_id is not null and source_app is not null and source_metadata ->> 'external_id' is not null
group by 1, 2, 3, bank_id
having count(*) > 1
order by count(*) desc, 1, 2, 3, bank_id
