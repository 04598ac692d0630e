-- Returns the runs that work on accounts of a user, and whether each has given a sign of life lately.
select holder, holder_process, expires_at > clock_timestamp()
from import_pipeline.leases
where account_id in (select id from public.import_sources where user_id = %(user_id)s)
for update
