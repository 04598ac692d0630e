-- Returns one row per account of the user whom the transaction works for, and whose accounts are all that it sees: how it
-- is, for `status`.
select
    source_app, account_email, is_active, last_sync_at, error_message, has_credential,
    imported, waiting, failed, ignored, new_since_yesterday, next_retry_at, next_sync_at,
    last_run_status, last_run_at, last_run_error, progress_current, progress_total
from import_pipeline.account_health(null, array[%(user_id)s::uuid])
where account_id in (select id from public.import_sources)
order by source_app
