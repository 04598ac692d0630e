-- What an attack on this schema brought to light: ways round the borders between users, and into our functions.


-- 1. Nobody's temporary objects are looked at ------------------------------------------------------------------------
-- With an empty search_path the caller's temporary schema is searched first, for types and tables. Whoever may execute
-- a function and made a domain `pg_temp.jsonb` had its check run with the rights of the function's owner: `auth.uid()`
-- casts to jsonb. Named, that schema is searched last.

do $$
declare
    v_function regprocedure;
begin
    for v_function in
        select p.oid
        from pg_catalog.pg_proc as p
        where p.pronamespace = to_regnamespace('import_pipeline')
            or p.oid = to_regprocedure('public.get_import_counts(uuid)')
    loop
        execute format('alter function %s set search_path = '''', pg_temp', v_function);
    end loop;
end
$$;


-- 2. A run is told only to the account of the user whose run it is ---------------------------------------------------
-- Where users may write `sync_jobs`, a row of theirs could name somebody else's account and was shown as its last run.

create or replace function import_pipeline.account_health(p_source_app text, p_user_ids uuid[])
returns table (
    account_id uuid, user_id uuid, label text, source_app text, account_email text, is_active boolean,
    has_credential boolean, created_at timestamptz, last_sync_at timestamptz, error_message text,
    imported bigint, waiting bigint, failed bigint, ignored bigint, new_since_yesterday bigint,
    oldest_waiting_at timestamptz, next_retry_at timestamptz, next_sync_at timestamptz,
    last_run_status text, last_run_at timestamptz, last_run_error text,
    progress_current integer, progress_total integer
)
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    -- Executed as text, because then it is planned with the arguments: one user's items come from an index, those of
    -- everybody from one pass.
    return query execute $query$
        with items as materialized (
            select
                i.user_id,
                i.source_app,
                count(*) filter (where i.status = 'imported') as imported,
                count(*) filter (where i.status = 'waiting') as waiting,
                count(*) filter (where i.status = 'failed') as failed,
                count(*) filter (where i.status = 'ignored') as ignored,
                count(*) filter (
                    where i.status = 'imported' and i.run_id is not null and i.updated_at > now() - interval '1 day'
                ) as new_since_yesterday,
                min(coalesce(i.started_at, i.first_seen_at)) filter (where i.status = 'waiting') as oldest_waiting_at,
                min(i.retry_at) filter (where i.status in ('waiting', 'failed')) as next_retry_at,
                min(i.retry_at) filter (
                    where i.status in ('waiting', 'failed') and i.retry_at > now()
                ) as coming_retry_at
            from public.import_items as i
            where ($1 is null or i.source_app = $1) and ($2 is null or i.user_id = any ($2))
            group by i.user_id, i.source_app
        )
        select
            s.id,
            s.user_id,
            coalesce(u.email, s.account_email, s.user_id::text)::text,
            s.source_app::text,
            s.account_email::text,
            s.is_active,
            exists (select from import_pipeline.credentials as c where c.account_id = s.id),
            s.created_at,
            s.last_sync_at,
            s.error_message::text,
            coalesce(items.imported, 0),
            coalesce(items.waiting, 0),
            coalesce(items.failed, 0),
            coalesce(items.ignored, 0),
            coalesce(items.new_since_yesterday, 0),
            items.oldest_waiting_at,
            items.next_retry_at,
            case
                when s.is_active
                -- What was due already when the last run looked, and still is, brings no run about.
                then greatest(
                    polls.not_before,
                    least(
                        coalesce(polls.due_at, now()),
                        items.coming_retry_at,
                        case when items.next_retry_at > polls.polled_at then items.next_retry_at end
                    )
                )
            end,
            run.status,
            run.started_at,
            run.error,
            run.progress_current,
            run.progress_total
        from public.import_sources as s
        left join auth.users as u on u.id = s.user_id
        left join items on items.user_id = s.user_id and items.source_app = s.source_app
        left join import_pipeline.polls on polls.account_id = s.id
        left join lateral (
            select j.status::text, j.started_at, j.error::text, j.progress_current, j.progress_total
            from public.sync_jobs as j
            where j.metadata ->> 'account_id' = s.id::text and j.user_id = s.user_id
            order by j.created_at desc
            limit 1
        ) as run on true
        where ($1 is null or s.source_app = $1) and ($2 is null or s.user_id = any ($2))
        $query$
        using p_source_app, p_user_ids;
end
$$;


-- 3. Who has left a bank deletes nothing there -----------------------------------------------------------------------
-- A `delete` that reads no column is not subject to the policy for reading: it took the rows of a bank that their owner
-- can no longer see. Changing them was refused already. Only where this is our own policy.

do $$
begin
    if exists (
        select
        from pg_catalog.pg_policy
        where polrelid = 'public.recordings'::regclass and polname = 'Owners delete their recordings'
    ) then
        alter policy "Owners delete their recordings" on public.recordings using (
            owner_user_id = (select auth.uid())
            and bank_id = any (
                array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()))
            )
        );
    end if;
end
$$;


-- 4. The importer works for accounts only ----------------------------------------------------------------------------
-- A run writes a recording and its row in the ledger in one transaction, so what the ledger refuses is not imported. An
-- explicit call of `run_pipeline` writes no ledger, and needs no account.

create function import_pipeline.claimed_sources()
returns text[]
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    return array(select s.source_app::text from public.import_sources as s where s.user_id = (select auth.uid()));
end
$$;
comment on function import_pipeline.claimed_sources() is
    'The sources at which the user whom the claims name has an account; empty: none.';

create function import_pipeline.claimed_account_ids()
returns text[]
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    return array(select s.id::text from public.import_sources as s where s.user_id = (select auth.uid()));
end
$$;
comment on function import_pipeline.claimed_account_ids() is
    'The accounts of the user whom the claims name; empty: none.';

revoke all on function import_pipeline.claimed_sources(), import_pipeline.claimed_account_ids()
    from public, anon, authenticated, service_role;
grant execute on function import_pipeline.claimed_sources(), import_pipeline.claimed_account_ids() to import_worker;

create policy "Import worker adds only items of claimed accounts" on public.import_items
    as restrictive for insert to import_worker
    with check (source_app = any ((select import_pipeline.claimed_sources())::text[]));

create policy "Import worker adds only sync jobs of claimed accounts" on public.sync_jobs
    as restrictive for insert to import_worker
    with check (
        coalesce(
            metadata ->> 'account_id' = any ((select import_pipeline.claimed_account_ids())::text[]),
            cardinality((select import_pipeline.claimed_account_ids())) > 0
        )
    );
