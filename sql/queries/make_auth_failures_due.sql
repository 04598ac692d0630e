-- Makes what failed for its credential due again, after the account was connected anew.
update public.import_items
set retry_at = now()
where user_id = %(user_id)s and source_app = %(source_app)s and status = 'failed' and error_class = 'auth'
