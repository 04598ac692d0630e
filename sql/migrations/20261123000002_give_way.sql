-- Runs over history give way to those for what is new: they lend them the account's lease and get it back afterwards,
-- and leave them the next free place in a rate budget.


-- 1. Leases that are lent -------------------------------------------------------------------------------------------

alter table import_pipeline.leases
    add column lane text not null default 'live',
    add column wanted_by text,
    add column wanted_by_process text,
    add column wanted_at timestamptz,
    add column lent_by text,
    add column lent_by_process text,
    add constraint leases_lane_check check (lane in ('live', 'history'));
comment on column import_pipeline.leases.lane is 'Whether its holder imports what is new, or a month of history.';
comment on column import_pipeline.leases.wanted_by is 'The live run that waits for a holder in the history lane.';
comment on column import_pipeline.leases.lent_by is 'The run over history that gets it back from its holder.';


-- 2. Live runs are served first -------------------------------------------------------------------------------------

alter table import_pipeline.rate_budgets add column live_waits_until timestamptz;
comment on column import_pipeline.rate_budgets.live_waits_until is 'Until then a free place is kept for a live run.';

drop function import_pipeline.take_rate_budgets(uuid, text[], integer[], double precision[]);
create function import_pipeline.take_rate_budgets(
    p_account_id uuid, p_names text[], p_allowed integer[], p_seconds double precision[],
    p_lane text default 'live'
)
returns table (wait_seconds double precision, blocked boolean, taken_at double precision, used integer[])
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_now double precision;
    v_budget import_pipeline.rate_budgets;
    v_free_at double precision;
    v_total integer;
    v_full text[] := '{}';
begin
    -- Losing the last requests in a crash of the server costs less than a flush for each.
    perform set_config('synchronous_commit', 'off', true);

    insert into import_pipeline.rate_budgets (account_id, name)
    select p_account_id, n from unnest(p_names) as n
    order by n collate "C"
    on conflict do nothing;

    perform from import_pipeline.rate_budgets as b
    where b.account_id = p_account_id and b.name = any (p_names)
    order by b.name collate "C"
    for update;

    v_now := extract(epoch from clock_timestamp());
    wait_seconds := 0;
    blocked := false;
    taken_at := v_now;
    used := '{}';

    for i in 1 .. cardinality(p_names) loop
        select b.* into strict v_budget
        from import_pipeline.rate_budgets as b
        where b.account_id = p_account_id and b.name = p_names[i];

        if v_budget.blocked_until > clock_timestamp() then
            blocked := true;
            wait_seconds := greatest(wait_seconds, extract(epoch from v_budget.blocked_until) - v_now);
        end if;

        -- The moment from which fewer than the allowed number of requests lie within one span.
        select max(e.at + p_seconds[i]), coalesce(max(e.total), 0)
        into v_free_at, v_total
        from (
            select
                g.at,
                sum(g.n) over (order by g.at desc rows unbounded preceding) as newer,
                sum(g.n) over () as total
            from unnest(v_budget.counted_at, v_budget.counts) as g (at, n)
            -- What lies far ahead was written by a clock that has been set back.
            where g.at + p_seconds[i] > v_now and g.at < v_now + p_seconds[i]
        ) as e
        where e.newer >= p_allowed[i] or e.total < p_allowed[i];

        used := used || v_total;
        if v_total >= p_allowed[i] then
            wait_seconds := greatest(wait_seconds, v_free_at - v_now);
            v_full := v_full || p_names[i];
        end if;
        if p_lane = 'history' and v_budget.live_waits_until > clock_timestamp() then
            wait_seconds := greatest(wait_seconds, extract(epoch from v_budget.live_waits_until) - v_now);
        end if;
    end loop;

    if wait_seconds <= 0 then
        for i in 1 .. cardinality(p_names) loop
            perform import_pipeline.count_request(p_account_id, p_names[i], p_seconds[i], v_now, 1);
        end loop;
    elsif p_lane = 'live' and cardinality(v_full) > 0 then
        -- A second more than it has to wait: it must wake up and ask again before history does.
        update import_pipeline.rate_budgets as b
        set live_waits_until = clock_timestamp() + make_interval(secs => wait_seconds + 1)
        where b.account_id = p_account_id and b.name = any (v_full);
    end if;
    return next;
end
$$;
comment on function import_pipeline.take_rate_budgets(uuid, text[], integer[], double precision[], text) is
    'Counts a request on all these budgets if each has room; otherwise says how long to wait and counts nothing. '
    'Where a live run waits, history waits longer.';

revoke execute on function
    import_pipeline.take_rate_budgets(uuid, text[], integer[], double precision[], text)
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.take_rate_budgets(uuid, text[], integer[], double precision[], text)
    to import_worker;
