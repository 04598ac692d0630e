-- Returns the accounts of a run: those of the given users, or all active ones.
select id, user_id, source_app, coalesce(email, account_email, user_id::text), last_sync_at
from import_pipeline.find_accounts(%(source_app)s, %(user_ids)s::uuid[])
order by last_sync_at nulls first, id
