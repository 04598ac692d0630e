-- Returns the root runs that have worked for a user.
select metadata ->> 'run_id' from public.sync_jobs where user_id = %(user_id)s and metadata ->> 'run_id' is not null
union
select run_id from public.import_items where user_id = %(user_id)s and run_id is not null
