-- What the importer may do in the call library. The policies name import_worker only: for anybody else nothing changes.
--
-- They come in pairs: a permissive `true` makes the owner's own policies for public irrelevant to import_worker (an
-- `or` with a constant is dropped before anything is evaluated, and with it the grants that their subqueries would
-- need), and a restrictive one decides alone. Where the owner has row-level security switched off they sleep.


-- 1. Schemas --------------------------------------------------------------------------------------------------------

do $$
begin
    if not has_schema_privilege('import_worker', 'public', 'usage') then
        grant usage on schema public to import_worker;
    end if;
end
$$;


-- 2. Banks and vaults: read those of the claimed user ---------------------------------------------------------------

grant select on public.banks, public.bank_memberships, public.vaults to import_worker;

create policy "Import worker sees banks" on public.banks
    for select to import_worker using (true);
create policy "Import worker sees only the claimed user's banks" on public.banks
    as restrictive for select to import_worker
    using (id = any ((select import_pipeline.claimed_bank_ids())::uuid[]));

create policy "Import worker sees memberships" on public.bank_memberships
    for select to import_worker using (true);
create policy "Import worker sees only the claimed user's memberships" on public.bank_memberships
    as restrictive for select to import_worker
    using (bank_id = any ((select import_pipeline.claimed_bank_ids())::uuid[]));

create policy "Import worker sees vaults" on public.vaults
    for select to import_worker using (true);
create policy "Import worker sees only vaults of the claimed user's banks" on public.vaults
    as restrictive for select to import_worker
    using (bank_id = any ((select import_pipeline.claimed_bank_ids())::uuid[]));


-- 3. Recordings and vault entries: add those of the claimed user ----------------------------------------------------
-- Reading is unconditional: `->>` is not leakproof, so with any condition of its own the policy would be evaluated
-- before the look-up by external_id, and that look-up would lose recordings_import_key.

grant select, insert on public.recordings, public.vault_entries to import_worker;

create policy "Import worker sees recordings" on public.recordings
    for select to import_worker using (true);
create policy "Import worker adds recordings" on public.recordings
    for insert to import_worker with check (true);
create policy "Import worker adds only to the claimed user's banks" on public.recordings
    as restrictive for insert to import_worker
    with check (
        owner_user_id = (select auth.uid())
        and bank_id = any ((select import_pipeline.claimed_bank_ids())::uuid[])
    );

create policy "Import worker sees vault entries" on public.vault_entries
    for select to import_worker using (true);
create policy "Import worker adds vault entries" on public.vault_entries
    for insert to import_worker with check (true);
create policy "Import worker adds only the claimed user's recordings" on public.vault_entries
    as restrictive for insert to import_worker
    with check (import_pipeline.may_enter(recording_id, vault_id));
create policy "Import worker enters only vaults its user may write to" on public.vault_entries
    as restrictive for insert to import_worker
    with check (vault_id = any ((select import_pipeline.enterable_vault_ids())::uuid[]));


-- 4. Sync jobs: keep those of the claimed user ----------------------------------------------------------------------

grant select, insert, update on public.sync_jobs to import_worker;

create policy "Import worker keeps sync jobs" on public.sync_jobs
    for all to import_worker using (true) with check (true);
create policy "Import worker keeps only the claimed user's sync jobs" on public.sync_jobs
    as restrictive for all to import_worker
    using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
create policy "Import worker adds only sync jobs of claimed accounts" on public.sync_jobs
    as restrictive for insert to import_worker
    with check (
        coalesce(
            metadata ->> 'account_id' = any ((select import_pipeline.claimed_account_ids())::text[]),
            cardinality((select import_pipeline.claimed_account_ids())) > 0
        )
    );

-- The last run of an account, which else would be looked for among all runs of a user, many thousands. Rows of the
-- owner's own jobs name no account and are not in it.
create index if not exists sync_jobs_account_idx
    on public.sync_jobs ((metadata ->> 'account_id'), created_at desc)
    where metadata ->> 'account_id' is not null;
create index sync_jobs_processing_idx on public.sync_jobs (updated_at) where status = 'processing';


-- 5. What everybody may do on a server, and an importer need not ----------------------------------------------------
-- Large objects are stored past every table and policy. Others may need them, so this is done only where the call
-- library is ours, made by our migrations, and whoever migrates may; elsewhere `import-pipeline audit` names them.

do $$
declare
    v_function regprocedure;
begin
    if obj_description('public.recordings'::regclass, 'pg_class') is distinct from
            'One call each, whatever source it came from.'
        or not exists (select from pg_catalog.pg_roles where rolname = current_user and rolsuper)
    then
        return;
    end if;
    for v_function in
        select f.oid
        from pg_catalog.pg_proc as f
        where f.pronamespace = 'pg_catalog'::regnamespace
            and f.proname in ('lo_create', 'lo_creat', 'lo_from_bytea', 'lo_put', 'lowrite')
    loop
        execute format('revoke execute on function %s from public', v_function);
    end loop;
end
$$;


-- 6. What the owner should know -------------------------------------------------------------------------------------

do $$
declare
    v_table regclass;
    v_names text;
begin
    foreach v_table in array array[
        'public.banks', 'public.bank_memberships', 'public.vaults', 'public.recordings', 'public.vault_entries',
        'public.sync_jobs', 'public.import_sources'
    ]::regclass[] loop
        if not (select relrowsecurity from pg_catalog.pg_class where oid = v_table) then
            raise warning 'Row-level security is off on %: the database cannot keep users apart there.', v_table
                using hint = format('To switch it on: alter table %s enable row level security;', v_table);
        end if;

        select string_agg(format('"%s"', polname), ', ' order by polname) into v_names
        from pg_catalog.pg_policy
        where polrelid = v_table and not polpermissive and polroles = '{0}';
        if v_names is not null then
            raise warning 'Restrictive policies on % bind import_worker too: %.', v_table, v_names
                using hint = 'Imports that they refuse will fail. Name the roles they are meant for.';
        end if;
    end loop;

    select string_agg(format('%s on %s', t.tgname, t.tgrelid::regclass), ', ' order by t.tgname) into v_names
    from pg_catalog.pg_trigger as t
    join pg_catalog.pg_proc as p on p.oid = t.tgfoid
    where t.tgrelid in ('public.recordings'::regclass, 'public.vault_entries'::regclass)
        and not t.tgisinternal
        and t.tgtype & 4 = 4  -- fires on insert
        and not p.prosecdef;
    if v_names is not null then
        raise warning 'These triggers run as import_worker when a call is imported: %.', v_names
            using hint = 'If they touch other tables, make their functions security definer or grant what they need.';
    end if;
end
$$;
