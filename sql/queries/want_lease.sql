-- Notes that a live run waits for a lease that is held in the history lane, whose holder then lends it.
update import_pipeline.leases
set wanted_by = %(holder)s, wanted_by_process = %(holder_process)s, wanted_at = clock_timestamp()
where account_id = %(account_id)s and lane = 'history'
