-- advance_sync_job: Moves the progress of one account's run forward, in the transaction that writes the items. Whoever
-- does that is working: a row that was settled when the run broke is open again while it is re-executed. The row may be
-- its user's to lock and to fill with any number: neither keeps the items from being written.
update public.sync_jobs
set status = 'processing',
    completed_at = null,
    error = null,
    progress_current = least(coalesce(progress_current, 0)::bigint + %(done)s, 2147483647),
    skipped_count = least(coalesce(skipped_count, 0)::bigint + %(skipped)s, 2147483647),
    updated_at = now()
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)

-- close_sync_job: Closes the row of one account's run with its status, its counts and, where they fit, the ids. What
-- somebody has locked stays open until the sensor settle_runs comes by.
update public.sync_jobs
set status = %(status)s,
    completed_at = now(),
    error = %(error)s,
    skipped_count = least(%(skipped)s::bigint, 2147483647),
    progress_current = least(%(done)s::bigint, 2147483647),
    progress_total = least(%(listed)s::bigint, 2147483647),
    metadata = metadata || jsonb_build_object(
        'counts', %(counts)s::jsonb, 'without_vault_entry', %(without_vault_entry)s::integer,
        'error_class', %(error_class)s::text, 'warning', %(warning)s::text
    ),
    updated_at = now()
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)

-- extend_sync_job: Adds to the number of items that one account's run has to work on; nothing happens to a row that
-- somebody has locked.
update public.sync_jobs
set progress_total = least(coalesce(progress_total, 0)::bigint + %(listed)s, 2147483647), updated_at = now()
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)

-- find_open_sync_jobs: Returns the rows of an account that other runs have opened and not closed, oldest first. Users
-- may write such rows, so not all of them at once.
select id, metadata ->> 'run_id'
from public.sync_jobs
where user_id = %(user_id)s
    and metadata ->> 'account_id' = %(account_id)s
    and metadata ->> 'run_id' <> %(run_id)s
    and status = 'processing'
order by updated_at
limit 100

-- find_run: Returns how one user's run stands.
select
    status, error, progress_current, progress_total, metadata ->> 'source_app' as source_app,
    metadata -> 'counts' as counts,
    case
        when metadata ->> 'without_vault_entry' ~ '^[0-9]{1,9}$' then (metadata ->> 'without_vault_entry')::integer
    end as without_vault_entry,
    metadata ->> 'error_class' as error_class, metadata ->> 'warning' as warning
from public.sync_jobs
where user_id = %(user_id)s and metadata ->> 'run_id' = %(run_id)s
order by created_at desc
limit 1

-- find_silent_sync_jobs: Returns the rows that say a run is working, of all users, for the importer itself.
select id, user_id, account_id, source_app, run_id, holder_process, is_silent
from import_pipeline.silent_sync_jobs(%(limit)s)

-- find_sync_job: Returns how the row of an account's run stands, and how many items it has listed and skipped so far.
select status, progress_total, skipped_count
from public.sync_jobs
where id = %(id)s and user_id = %(user_id)s

-- find_sync_job_array_types: Returns the element types of the id arrays: text on our schema, integer on older
-- installations.
select attname, format_type(atttypid, atttypmod)
from pg_catalog.pg_attribute
where attrelid = 'public.sync_jobs'::regclass and attname in ('recording_ids', 'synced_ids', 'failed_ids')

-- list_run_ids: Returns the first ids that one run of one account imported or failed, for the legacy arrays of
-- sync_jobs.
select external_id, status
from public.import_items
where user_id = %(user_id)s and source_app = %(source_app)s and run_id = %(run_id)s and status in ('imported', 'failed')
order by external_id
limit 10000

-- open_sync_job: Opens the row that shows the progress of one account in one run, or finds it again when the run is
-- re-executed. One that somebody has locked is left as it is.
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

-- set_sync_job_ids: Notes the ids of one account's run; the placeholders' element types follow the installation's
-- columns.
update public.sync_jobs
set recording_ids = %(recording_ids)s::{recording_ids},
    synced_ids = %(synced_ids)s::{synced_ids},
    failed_ids = %(failed_ids)s::{failed_ids}
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)
