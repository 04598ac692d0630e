-- Returns when the oldest item that still waits for its transcript began, for one account.
select min(started_at)
from public.import_items
where user_id = %(user_id)s and source_app = %(source_app)s and status = 'waiting'
