-- Returns how many calls of one account that began within a span were imported before.
select count(*)
from public.import_items
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and status = 'imported'
    and recording_id is not null
    and (%(since)s::timestamptz is null or started_at >= %(since)s)
    and (%(until)s::timestamptz is null or started_at < %(until)s)
