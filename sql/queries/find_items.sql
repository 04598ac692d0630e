-- Returns what the ledger knows of the given items of one account.
select external_id, status, recording_id, attempts, first_seen_at, retry_at, error_message
from public.import_items
where user_id = %(user_id)s and source_app = %(source_app)s and external_id = any(%(external_ids)b::text[])
