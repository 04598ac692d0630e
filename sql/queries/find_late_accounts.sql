-- Returns active accounts of a source whose last complete run is too long ago and which no run is working on, with the
-- number of all of them.
select
    count(*) over () as total, label, source_app, has_credential, last_sync_at, created_at, error_message,
    last_run_status, last_run_error
from import_pipeline.account_health(%(source_app)s, null)
where is_active
    and coalesce(last_sync_at, created_at) < now() - make_interval(secs => %(seconds)s)
    and last_run_status is distinct from 'processing'
order by last_sync_at nulls first, label
limit %(limit)s
