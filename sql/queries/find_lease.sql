-- Returns which run holds the lease of an account in one lane.
select holder, holder_process, heartbeat_at
from import_pipeline.leases
where account_id = %(account_id)s and lane = %(lane)s
