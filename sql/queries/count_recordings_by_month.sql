-- Returns source, month ('YYYY-MM', UTC) and number of recordings since a time; month null: older, or of unknown time.
select
    coalesce(source_app, '') as source_app,
    case
        when recording_start_time >= %(since)s and recording_start_time < now() + interval '1 month'
        then to_char(recording_start_time at time zone 'UTC', 'YYYY-MM')
    end as month,
    count(*) as recordings
from public.recordings
group by 1, 2
