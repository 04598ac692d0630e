-- Returns the time, and when the oldest item began that still waits, or that failed and is due again, for one account.
select now(), import_pipeline.known_time(min(coalesce(started_at, first_seen_at)))
from public.import_items
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and (status = 'waiting' or (status = 'failed' and retry_at <= now()))
