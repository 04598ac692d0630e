-- A request counts for one span from its answer, less the time that every answer takes at least: so much of it lies
-- behind the moment at which the provider counts, or before that moment for the next request.

drop function import_pipeline.settle_rate_budgets(uuid, text[], double precision[], double precision);
create function import_pipeline.settle_rate_budgets(
    p_account_id uuid, p_names text[], p_seconds double precision[], p_taken_at double precision,
    p_sooner double precision
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_now double precision := extract(epoch from clock_timestamp());
    v_at double precision := greatest(p_taken_at, v_now - p_sooner);
begin
    perform set_config('synchronous_commit', 'off', true);
    perform from import_pipeline.rate_budgets as b
    where b.account_id = p_account_id and b.name = any (p_names)
    order by b.name collate "C"
    for update;
    for i in 1 .. cardinality(p_names) loop
        if ceil(v_at / p_seconds[i] * 100) > ceil(p_taken_at / p_seconds[i] * 100) then
            perform import_pipeline.count_request(p_account_id, p_names[i], p_seconds[i], v_at, 1);
            if p_taken_at + p_seconds[i] > v_now then
                perform import_pipeline.count_request(p_account_id, p_names[i], p_seconds[i], p_taken_at, -1);
            end if;
        end if;
    end loop;
end
$$;
comment on function import_pipeline.settle_rate_budgets(
    uuid, text[], double precision[], double precision, double precision
) is 'Counts an answered request from so many seconds ago on, not from when it was sent.';

revoke execute on function
    import_pipeline.settle_rate_budgets(uuid, text[], double precision[], double precision, double precision)
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.settle_rate_budgets(uuid, text[], double precision[], double precision, double precision)
    to import_worker;
