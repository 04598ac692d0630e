-- Returns each call that a user has more than once of the same source, with its rows and their banks, oldest first.
select
    owner_user_id,
    source_app,
    source_metadata ->> 'external_id',
    array_agg(id order by created_at, id),
    array_agg(bank_id order by created_at, id),
    array_agg(title order by created_at, id)
from public.recordings
where owner_user_id is not null and source_app is not null and source_metadata ->> 'external_id' is not null
group by 1, 2, 3
having count(*) > 1
order by count(*) desc, 1, 2, 3
