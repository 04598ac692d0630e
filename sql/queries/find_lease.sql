-- Returns who holds the lease of an account.
select holder, holder_process, heartbeat_at from import_pipeline.leases where account_id = %(account_id)s
