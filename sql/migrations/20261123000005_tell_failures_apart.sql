-- What a person needs to know about a failure, and which rows of `sync_jobs` may belong to runs that nobody works on.


-- 1. What the source answered ---------------------------------------------------------------------------------------

alter table public.import_items
    add column http_status smallint,
    add column request_id text;
comment on column public.import_items.http_status is 'What the source answered to the last attempt that failed.';
comment on column public.import_items.request_id is 'By what the source''s support finds that attempt.';


-- 2. Runs that ended without a word ---------------------------------------------------------------------------------

create index sync_jobs_processing_idx on public.sync_jobs (updated_at) where status = 'processing';

create function import_pipeline.silent_sync_jobs(p_limit integer)
returns table (
    id uuid, user_id uuid, account_id uuid, source_app text, run_id text, holder_process text, is_silent boolean
)
language sql
stable security definer
set search_path = ''
as $$
    select
        j.id, j.user_id, s.id, s.source_app::text, j.metadata ->> 'run_id', l.holder_process,
        l.expires_at < clock_timestamp()
        or (l.account_id is null and j.updated_at < clock_timestamp() - interval '90 seconds')
    from public.sync_jobs as j
    join public.import_sources as s on s.id::text = j.metadata ->> 'account_id' and s.user_id = j.user_id
    left join import_pipeline.leases as l on l.account_id = s.id and l.holder = j.metadata ->> 'run_id'
    where j.status = 'processing' and j.metadata ->> 'run_id' is not null
    order by j.updated_at
    limit p_limit
$$;
comment on function import_pipeline.silent_sync_jobs(integer) is
    'Rows in the state processing, longest untouched first, with the process that works on them as far as it is known; '
    'silent is a row whose run has given no sign of life for the length of a lease.';

revoke execute on function import_pipeline.silent_sync_jobs(integer) from public, anon, authenticated, service_role;
grant execute on function import_pipeline.silent_sync_jobs(integer) to import_worker;
