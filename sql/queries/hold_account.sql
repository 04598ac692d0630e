-- Returns the database's time, and keeps an account from being removed until the end of the transaction; no row: it is gone.
select clock_timestamp() from public.import_sources where id = %(id)s and user_id = %(user_id)s for key share
