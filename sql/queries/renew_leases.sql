-- Renews every lease that a run holds; returns the accounts.
update import_pipeline.leases
set heartbeat_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
where holder = %(holder)s
returning account_id
