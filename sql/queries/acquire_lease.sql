-- Takes or renews the lease of an account; returns a row only to who has it afterwards.
insert into import_pipeline.leases as held (
    account_id, holder, holder_process, lane, acquired_at, heartbeat_at, expires_at
)
values (
    %(account_id)s, %(holder)s, %(holder_process)s, %(lane)s, clock_timestamp(), clock_timestamp(),
    clock_timestamp() + make_interval(secs => %(seconds)s)
)
on conflict (account_id) do update
set holder = excluded.holder,
    holder_process = excluded.holder_process,
    lane = excluded.lane,
    acquired_at = case when held.holder = excluded.holder then held.acquired_at else excluded.acquired_at end,
    heartbeat_at = excluded.heartbeat_at,
    expires_at = excluded.expires_at,
    wanted_by = nullif(held.wanted_by, excluded.holder),
    lent_by = nullif(held.lent_by, excluded.holder)
where held.holder = excluded.holder
    or held.expires_at < clock_timestamp()
    or held.holder = %(abandoned_by)s
returning holder
