-- Returns one row per account of the user: the cursor, what the ledger holds, and how the last run ended.
select
    import_sources.source_app, import_sources.account_email, import_sources.is_active, import_sources.last_sync_at,
    import_sources.error_message,
    exists (select from import_pipeline.credentials where account_id = import_sources.id) as has_credential,
    coalesce(items.imported, 0) as imported, coalesce(items.waiting, 0) as waiting,
    coalesce(items.failed, 0) as failed, coalesce(items.ignored, 0) as ignored,
    items.next_retry_at,
    last_job.status as last_run_status, last_job.started_at as last_run_at, last_job.error as last_run_error,
    last_job.progress_current, last_job.progress_total
from public.import_sources
left join lateral (
    select
        count(*) filter (where status = 'imported') as imported,
        count(*) filter (where status = 'waiting') as waiting,
        count(*) filter (where status = 'failed') as failed,
        count(*) filter (where status = 'ignored') as ignored,
        min(retry_at) filter (where status in ('waiting', 'failed')) as next_retry_at
    from public.import_items
    where import_items.user_id = import_sources.user_id and import_items.source_app = import_sources.source_app
) as items on true
left join lateral (
    select status, started_at, error, progress_current, progress_total
    from public.sync_jobs
    where sync_jobs.user_id = import_sources.user_id and sync_jobs.metadata ->> 'source_app' = import_sources.source_app
    order by created_at desc
    limit 1
) as last_job on true
where import_sources.user_id = %(user_id)s
order by import_sources.source_app
