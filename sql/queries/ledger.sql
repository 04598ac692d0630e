-- clear_vault_problems: Forgets in the ledger that these recordings had no vault entry.
update public.import_items
set error_class = null, error_message = null
where user_id = %(user_id)s
    and recording_id = any(%(recording_ids)s::uuid[])
    and status = 'imported'
    and starts_with(error_message, %(prefix)s)

-- close_unlisted_items: Gives up items that were due when a run began, and that its complete listing did not bring;
-- returns how many.
with closed as (
    update public.import_items
    set status = 'failed',
        error_class = 'permanent',
        error_message = concat_ws(' ', 'The source no longer lists it.', error_message),
        retry_at = null,
        updated_at = now()
    where user_id = %(user_id)s
        and source_app = %(source_app)s
        and status in ('waiting', 'failed')
        and retry_at <= %(opened_at)s
        and updated_at < %(opened_at)s
        and coalesce(started_at, first_seen_at) < %(opened_at)s - make_interval(secs => %(deadline_seconds)s)
    returning 1
)
select count(*) from closed

-- count_imported_between: Returns how many calls of one account that began within a span were imported before.
select count(*)
from public.import_items
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and status = 'imported'
    and recording_id is not null
    and (%(since)s::timestamptz is null or started_at >= %(since)s)
    and (%(until)s::timestamptz is null or started_at < %(until)s)

-- count_run_items: Returns status and number of the items that one run of one account settled.
select status, count(*)
from public.import_items
where user_id = %(user_id)s and source_app = %(source_app)s and run_id = %(run_id)s
group by status

-- explain_item: Returns all the ledger knows of the items with this id or at this place, and whether their recordings
-- exist.
select
    import_items.source_app, import_items.external_id, import_items.status, import_items.title, import_items.location,
    import_items.started_at, import_items.attempts, import_items.error_class, import_items.error_message,
    import_items.http_status, import_items.request_id, import_items.retry_at, import_items.run_id, import_items.first_seen_at, import_items.updated_at,
    import_items.recording_id, recordings.title as recording_title,
    import_pipeline.known_time(recordings.created_at) as recording_created_at,
    recordings.bank_id
from public.import_items
left join public.recordings on recordings.id = import_items.recording_id
where import_items.user_id = %(user_id)s
    and (import_items.external_id = any(%(ids)s::text[]) or import_items.location = any(%(ids)s::text[]))
order by import_items.status = 'ignored', import_items.updated_at desc
limit 50

-- explain_recording: Returns the user's recordings with this external id, of any source: for calls that the ledger does
-- not know.
select
    source_app, source_metadata ->> 'external_id' as external_id, id as recording_id, title,
    import_pipeline.known_time(created_at) as created_at
from public.recordings
where owner_user_id = %(user_id)s and (source_metadata ->> 'external_id') = any(%(ids)s::text[])
limit 50

-- find_due_items: Returns where the items of one account are that wait or failed and are to be tried again by now, and
-- since when.
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

-- find_items: Returns what the ledger knows of the given items of one account.
select external_id, status, recording_id, attempts, first_seen_at, retry_at, error_message
from public.import_items
where user_id = %(user_id)s and source_app = %(source_app)s and external_id = any(%(external_ids)b::text[])

-- find_month: Returns what is known of one account and span of time, apart from what the source lists now: its
-- recordings, and the items that wait or have failed, with status (null: a recording), external id, title, time and
-- reason.
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

-- find_oldest_open: Returns the time, and when the oldest item began that still waits, or that failed and is due again,
-- for one account.
select now(), import_pipeline.known_time(min(coalesce(started_at, first_seen_at)))
from public.import_items
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and (status = 'waiting' or (status = 'failed' and retry_at <= now()))

-- list_failures: Returns the failed items of one user, newest first, for people.
select
    source_app, external_id, title, location, error_class, error_message, http_status, request_id, attempts, retry_at,
    run_id, updated_at
from public.import_items
where user_id = %(user_id)s
    and status = 'failed'
    and (%(source_app)s::text is null or source_app = %(source_app)s)
    and (%(run_id)s::text is null or run_id = %(run_id)s)
order by updated_at desc, external_id
limit %(limit)s

-- record_outcomes: Writes what became of items and returns their rows. What is imported stays imported, by the run that
-- did it; of such an item that came to less this time there is no row.
insert into public.import_items as ledger (
    user_id, source_app, external_id, status, recording_id, title, location, started_at,
    attempts, error_class, error_message, retry_at, http_status, request_id, run_id
)
select
    %(user_id)s, %(source_app)s, external_id, status, recording_id, title, location, started_at,
    attempts, error_class, error_message, retry_at, http_status, request_id, run_id
from unnest(
    %(external_id)b::text[], %(status)b::text[], %(recording_id)b::uuid[], %(title)b::text[], %(location)b::text[],
    %(started_at)b::timestamptz[], %(attempts)b::integer[], %(error_class)b::text[], %(error_message)b::text[],
    %(retry_at)b::timestamptz[], %(http_status)b::integer[], %(request_id)b::text[], %(run_id)b::text[]
) as new (
    external_id, status, recording_id, title, location, started_at, attempts, error_class, error_message, retry_at,
    http_status, request_id, run_id
)
on conflict (user_id, source_app, external_id) do update
set status = excluded.status,
    recording_id = excluded.recording_id,
    title = coalesce(excluded.title, ledger.title),
    location = coalesce(excluded.location, ledger.location),
    started_at = coalesce(excluded.started_at, ledger.started_at),
    attempts = ledger.attempts + excluded.attempts,
    error_class = excluded.error_class,
    error_message = excluded.error_message,
    retry_at = excluded.retry_at,
    http_status = excluded.http_status,
    request_id = excluded.request_id,
    run_id = case
        when ledger.recording_id = excluded.recording_id then coalesce(ledger.run_id, excluded.run_id)
        else excluded.run_id
    end,
    updated_at = now()
where not (ledger.status = 'imported' and ledger.recording_id is not null and excluded.status <> 'imported')
returning external_id, status, run_id

-- request_retry: Makes items due at once and returns them: failed and waiting ones, and ignored ones only when they are
-- named.
update public.import_items
set retry_at = now(),
    status = case when status = 'ignored' or (status = 'imported' and recording_id is null) then 'waiting' else status end
where user_id = %(user_id)s
    and (%(source_app)s::text is null or source_app = %(source_app)s)
    and case
        when %(external_ids)s::text[] is null then status = 'failed'
        else external_id = any(%(external_ids)s::text[])
            and (status in ('failed', 'waiting', 'ignored') or (status = 'imported' and recording_id is null))
    end
returning source_app, external_id, location, started_at

-- retry_failures: Makes due at once what failed in one run of one account; returns nothing.
update public.import_items
set retry_at = now()
where user_id = %(user_id)s and source_app = %(source_app)s and run_id = %(run_id)s and status = 'failed'

-- settle_provisional_items: Closes the rows of items that had failed or waited under a provisional key and have an id
-- of their own now.
update public.import_items
set status = 'ignored',
    error_class = null,
    error_message = 'settled: what is at this place now has been imported',
    retry_at = null,
    http_status = null,
    request_id = null,
    run_id = %(run_id)s,
    updated_at = now()
where user_id = %(user_id)s
    and source_app = %(source_app)s
    and external_id = any(%(provisional_ids)s::text[])
    and status in ('failed', 'waiting')
