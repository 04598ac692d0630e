-- Forgets in the ledger that these recordings had no vault entry.
update public.import_items
set error_class = null, error_message = null
where user_id = %(user_id)s
    and recording_id = any(%(recording_ids)s::uuid[])
    and status = 'imported'
    and starts_with(error_message, %(prefix)s)
