-- count_recordings_by_month: Returns source, month ('YYYY-MM', UTC) and number of recordings since a time; month null:
-- older, or of unknown time.
select
    coalesce(source_app, '') as source_app,
    case
        when recording_start_time >= %(since)s and recording_start_time < now() + interval '1 month'
        then to_char(recording_start_time at time zone 'UTC', 'YYYY-MM')
    end as month,
    count(*) as recordings
from public.recordings
group by 1, 2

-- count_recordings_by_user: Returns for every user and source how many recordings there are.
select owner_user_id as user_id, coalesce(source_app, '') as source_app, count(*) as recordings
from public.recordings
where owner_user_id is not null
group by 1, 2

-- describe_health: Returns one row with two JSON arrays: figures per source, and the accounts, those with problems
-- first, so many.
with health as materialized (
    select * from import_pipeline.account_health(null, null)
),
sources as (
    select
        source_app,
        count(*) as accounts,
        count(*) filter (where is_active and (error_message is not null or last_run_status = 'failed')) as with_problem,
        max(last_sync_at) as last_sync_at,
        sum(new_since_yesterday) as new_since_yesterday,
        sum(waiting) as waiting,
        sum(failed) as failed
    from health
    group by source_app
),
worst as (
    select *
    from health
    order by
        is_active desc, (error_message is not null or last_run_status is not distinct from 'failed') desc,
        failed > 0 desc, last_sync_at nulls first, label, source_app
    limit %(limit)s
)
select
    (select coalesce(jsonb_agg(to_jsonb(sources) order by source_app), '[]') from sources),
    (select coalesce(jsonb_agg(to_jsonb(worst)), '[]') from worst)

-- find_duplicates_by_source: Returns calls of these sources that a user has more than once in a bank: so many of each
-- source, with the number of all of them.
select source_app, total, owner_user_id as user_id, external_id, copies
from (
    select
        groups.*,
        count(*) over (partition by source_app) as total,
        row_number() over (partition by source_app order by owner_user_id, external_id, bank_id) as position
    from (
        select source_app, owner_user_id, source_metadata ->> 'external_id' as external_id, bank_id, count(*) as copies
        from public.recordings
        where source_app = any(%(source_apps)s::text[]) and source_metadata ->> 'external_id' is not null
        group by 1, 2, 3, 4
        having count(*) > 1
    ) as groups
) as numbered
where position <= %(limit)s
order by source_app, position

-- find_late_accounts: Returns active accounts of a source whose last complete run is too long ago and which no run is
-- working on, with the number of all of them.
select
    count(*) over () as total, label, source_app, has_credential, last_sync_at, created_at, error_message,
    last_run_status, last_run_error
from import_pipeline.account_health(%(source_app)s, null)
where is_active
    and coalesce(last_sync_at, created_at) < now() - make_interval(secs => %(seconds)s)
    and last_run_status is distinct from 'processing'
order by last_sync_at nulls first, label
limit %(limit)s

-- find_overdue_items: Returns items of a source that wait since before a time, with the number of all of them.
select total, label, external_id, title, waiting_since, retry_at, reason
from import_pipeline.overdue_items(%(source_app)s, now() - make_interval(secs => %(seconds)s), %(limit)s)

-- find_unvaulted_by_source: Returns recordings of these sources that are in no vault: so many of each source, with the
-- number of all of them.
select source_app, total, owner_user_id as user_id, id as recording_id, title
from (
    select
        source_app, owner_user_id, id, title,
        count(*) over (partition by source_app) as total,
        row_number() over (partition by source_app order by created_at desc, id) as position
    from public.recordings
    where source_app = any(%(source_apps)s::text[])
        and not exists (select from public.vault_entries where vault_entries.recording_id = recordings.id)
) as numbered
where position <= %(limit)s
order by source_app, position
