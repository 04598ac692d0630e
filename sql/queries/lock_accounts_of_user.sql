-- Returns the accounts of a user, and keeps every run from taking one until the end of the transaction.
select id from public.import_sources where user_id = %(user_id)s order by id for update
