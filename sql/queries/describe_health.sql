-- Returns one row with two JSON arrays: figures per source, and the accounts, those with problems first, so many.
with health as materialized (
    select * from import_pipeline.account_health(null, null)
),
sources as (
    select
        source_app,
        count(*) as accounts,
        count(*) filter (where is_active and (error_message is not null or last_run_status = 'failed')) as with_problem,
        max(last_sync_at) as last_sync_at,
        sum(new_since_yesterday) as new_since_yesterday,
        sum(waiting) as waiting,
        sum(failed) as failed
    from health
    group by source_app
),
worst as (
    select *
    from health
    order by
        is_active desc, (error_message is not null or last_run_status is not distinct from 'failed') desc,
        failed > 0 desc, last_sync_at nulls first, label, source_app
    limit %(limit)s
)
select
    (select coalesce(jsonb_agg(to_jsonb(sources) order by source_app), '[]') from sources),
    (select coalesce(jsonb_agg(to_jsonb(worst)), '[]') from worst)
