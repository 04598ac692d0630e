-- Returns for every user and source how many recordings there are.
select owner_user_id as user_id, coalesce(source_app, '') as source_app, count(*) as recordings
from public.recordings
where owner_user_id is not null
group by 1, 2
