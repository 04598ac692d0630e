-- Returns how many recordings of which source the user has.
select source_app, count(*)
from public.recordings
where owner_user_id = %(user_id)s
group by 1
order by 1
