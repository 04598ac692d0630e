-- Returns the rows that say a run is working, of all users, for the importer itself.
select id, user_id, account_id, source_app, run_id, holder_process, is_silent
from import_pipeline.silent_sync_jobs(%(limit)s)
