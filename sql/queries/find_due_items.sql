-- Returns where the items of one account are that wait or failed and are to be tried again by now, and since when.
select location, min(retry_at)
from public.import_items
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and status in ('waiting', 'failed')
    and retry_at <= now()
    and location is not null
group by location
order by 2, 1
limit %(limit)s
