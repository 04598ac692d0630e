-- Returns what is known of one account and span of time, apart from what the source lists now: its recordings, and the
-- items that wait or have failed, with status (null: a recording), external id, title, time and reason.
select
    null as status, source_metadata ->> 'external_id' as external_id, title, recording_start_time as started_at,
    null as reason
from public.recordings
where owner_user_id = %(user_id)s
    and source_app = %(source_app)s
    and recording_start_time >= %(start)s
    and recording_start_time < %(end)s
    and source_metadata ->> 'external_id' is not null
union all
select status, external_id, title, started_at, error_message
from public.import_items
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and status in ('waiting', 'failed')
    and started_at >= %(start)s
    and started_at < %(end)s
