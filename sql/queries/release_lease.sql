-- Gives the lease of an account back, to the run that lent it or to nobody; whoever lent it no longer wants it back.
with returned as (
    update import_pipeline.leases
    set holder = lent_by,
        holder_process = lent_by_process,
        lane = 'history',
        heartbeat_at = clock_timestamp(),
        expires_at = clock_timestamp() + make_interval(secs => %(seconds)s),
        lent_by = null
    where account_id = %(account_id)s and holder = %(holder)s and lent_by is not null
), given_up as (
    update import_pipeline.leases set lent_by = null where account_id = %(account_id)s and lent_by = %(holder)s
)
delete from import_pipeline.leases
where account_id = %(account_id)s and holder = %(holder)s and lent_by is null
