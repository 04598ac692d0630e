-- Part: the rows of the accounts of a user.
account_id in (select id from public.import_sources where user_id = %(user_id)s)
