-- Opens the row that shows the progress of one account in one run, or finds it again when the run is re-executed. One
-- that somebody has locked is left as it is.
with existing as (
    select id from public.sync_jobs
    where user_id = %(user_id)s and metadata ->> 'run_id' = %(run_id)s::text and metadata ->> 'account_id' = %(account_id)s::text
    limit 1
), reopened as (
    update public.sync_jobs
    set status = 'processing', completed_at = null, error = null, updated_at = now()
    where id in (
        select id from public.sync_jobs where id in (select id from existing) for no key update skip locked
    )
), opened as (
    insert into public.sync_jobs (user_id, status, type, started_at, metadata, progress_current, progress_total, skipped_count)
    select %(user_id)s, 'processing', 'import', now(), %(metadata)s::jsonb, 0, 0, 0
    where not exists (select from existing)
    returning id
)
select id from existing
union all
select id from opened
