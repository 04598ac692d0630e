-- Takes or renews the lease of an account in one lane; returns a row only to the run that has it afterwards.
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
