-- Returns the active accounts of a source for its sensor: whether one may be asked for now, and its last good run.
select id, user_id, is_held, not_before > now() as is_paused, last_sync_at
from import_pipeline.due_accounts(%(source_app)s)
