-- acquire_lease: Takes or renews the lease of an account in one lane; returns a row only to the run that has it
-- afterwards.
insert into import_pipeline.leases as held (
    account_id, lane, holder, holder_process, acquired_at, heartbeat_at, expires_at
)
values (
    %(account_id)s, %(lane)s, %(holder)s, %(holder_process)s, clock_timestamp(), clock_timestamp(),
    clock_timestamp() + make_interval(secs => %(seconds)s)
)
on conflict (account_id, lane) do update
set holder = excluded.holder,
    holder_process = excluded.holder_process,
    acquired_at = case when held.holder = excluded.holder then held.acquired_at else excluded.acquired_at end,
    heartbeat_at = excluded.heartbeat_at,
    expires_at = excluded.expires_at
where held.holder = excluded.holder
    or held.expires_at < clock_timestamp()
    or held.holder = %(abandoned_by)s
returning holder

-- find_holders: Returns which of these root runs hold an account at the moment, and in which processes.
select distinct holder, holder_process from import_pipeline.leases where holder = any(%(run_ids)s) and expires_at > now()

-- find_lease: Returns which run holds the lease of an account in one lane.
select holder, holder_process, heartbeat_at
from import_pipeline.leases
where account_id = %(account_id)s and lane = %(lane)s

-- find_working_runs: Returns the runs that work on accounts now.
select distinct holder from import_pipeline.leases where expires_at > now() order by holder

-- release_lease: Gives back what a run holds of an account.
delete from import_pipeline.leases where account_id = %(account_id)s and holder = %(holder)s

-- renew_leases: Renews every lease that a run holds; returns the accounts.
update import_pipeline.leases
set heartbeat_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
where holder = %(holder)s
returning account_id
