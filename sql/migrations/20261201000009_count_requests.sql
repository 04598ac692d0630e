-- What the processes of one account have asked of its provider lately, so that together they stay within its limit.

create function import_pipeline.take_rate_budgets(
    p_account_id uuid, p_names text[], p_allowed integer[], p_seconds double precision[],
    p_lane text default 'live'
)
returns table (wait_seconds double precision, blocked boolean, taken_at double precision, used integer[])
language plpgsql
volatile
set search_path = '', pg_temp
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

create function import_pipeline.count_request(
    p_account_id uuid, p_name text, p_seconds double precision, p_at double precision, p_number integer
)
returns void
language sql
volatile
set search_path = '', pg_temp
as $$
    update import_pipeline.rate_budgets as b
    set (counted_at, counts) = (
        select coalesce(array_agg(e.at order by e.at), '{}'), coalesce(array_agg(e.n order by e.at), '{}')
        from (
            select g.at, sum(g.n)::integer as n
            from (
                select * from unnest(b.counted_at, b.counts)
                union all
                select ceil(p_at / p_seconds * 100) * p_seconds / 100, p_number
            ) as g (at, n)
            where g.at + p_seconds > extract(epoch from clock_timestamp())
                and g.at < extract(epoch from clock_timestamp()) + p_seconds
            group by g.at
            having sum(g.n) > 0
        ) as e
    ),
    updated_at = clock_timestamp()
    where b.account_id = p_account_id and b.name = p_name
$$;
comment on function import_pipeline.count_request(uuid, text, double precision, double precision, integer) is
    'Adds to the log of a budget, and forgets what is older than its span.';

-- A request counts for one span from its answer, less the time that every answer takes at least: so much of it lies
-- behind the moment at which the provider counts, or before that moment for the next request.
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
    import_pipeline.take_rate_budgets(uuid, text[], integer[], double precision[], text),
    import_pipeline.count_request(uuid, text, double precision, double precision, integer),
    import_pipeline.settle_rate_budgets(uuid, text[], double precision[], double precision, double precision)
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.take_rate_budgets(uuid, text[], integer[], double precision[], text),
    import_pipeline.count_request(uuid, text, double precision, double precision, integer),
    import_pipeline.settle_rate_budgets(uuid, text[], double precision[], double precision, double precision)
    to import_worker;
