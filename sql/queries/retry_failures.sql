-- Makes due at once what failed in one run of one account; returns nothing.
update public.import_items
set retry_at = now()
where user_id = %(user_id)s and source_app = %(source_app)s and run_id = %(run_id)s and status = 'failed'
