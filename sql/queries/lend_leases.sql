-- Hands what a run over history holds to the live runs that have just asked for it; returns the accounts.
update import_pipeline.leases
set holder = wanted_by,
    holder_process = wanted_by_process,
    lane = 'live',
    acquired_at = clock_timestamp(),
    heartbeat_at = clock_timestamp(),
    expires_at = clock_timestamp() + make_interval(secs => %(seconds)s),
    wanted_by = null,
    lent_by = holder,
    lent_by_process = holder_process
where holder = %(holder)s and lane = 'history' and wanted_by <> holder
    and wanted_at > clock_timestamp() - make_interval(secs => %(asked_within_seconds)s)
returning account_id
