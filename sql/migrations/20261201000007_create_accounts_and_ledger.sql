-- Accounts and the ledger.


-- 1. Accounts: one user's connection to one source each -------------------------------------------------------------

do $$
declare
    v_command text;
begin
    if to_regclass('public.import_sources') is null then
        create table public.import_sources (
            id uuid not null default gen_random_uuid(),
            user_id uuid not null,
            source_app text not null,
            is_active boolean not null default true,
            account_email text,
            last_sync_at timestamptz,
            error_message text,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            constraint import_sources_pkey primary key (id),
            constraint import_sources_user_id_source_app_key unique (user_id, source_app),
            constraint import_sources_user_id_fkey foreign key (user_id) references auth.users on delete cascade
        );
        alter table public.import_sources enable row level security;
        create index import_sources_user_id_idx on public.import_sources (user_id);
        revoke all on public.import_sources from anon, authenticated;
        grant select, insert, update, delete on public.import_sources to authenticated, service_role;
        comment on table public.import_sources is 'Accounts: one user''s connection to one source each.';
        comment on column public.import_sources.last_sync_at is
            'The cursor: everything listed up to this moment is in import_items.';

        -- Without `to`, so that they bind import_worker as well: it only sees accounts of the user it claims to be.
        create policy "Users see their sources" on public.import_sources
            for select using ((select auth.uid()) = user_id);
        create policy "Users add their sources" on public.import_sources
            for insert with check ((select auth.uid()) = user_id);
        create policy "Users update their sources" on public.import_sources
            for update using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
        create policy "Users delete their sources" on public.import_sources
            for delete using ((select auth.uid()) = user_id);
    elsif (
        -- A table that was here before may have these four policies too; then there is nothing to add.
        select count(distinct p.polcmd) < 4
        from pg_catalog.pg_policy as p
        cross join lateral (
            select
                array_agg(regexp_replace(expression, '[()]|\s+AS uid|\s', '', 'g')) as conditions
            from unnest(array[
                pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
            ]) as expression
            where expression is not null
        ) as stripped
        where p.polrelid = 'public.import_sources'::regclass
            and p.polroles = '{0}'
            and p.polpermissive
            and stripped.conditions <@ array[
                'SELECTauth.uid=user_id', 'auth.uid=user_id', 'user_id=SELECTauth.uid', 'user_id=auth.uid'
            ]
    ) then
        create policy "Import worker reaches sources" on public.import_sources
            for all to import_worker using (true) with check (true);
        create policy "Import worker reaches only the claimed user's sources" on public.import_sources
            as restrictive for all to import_worker
            using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
    end if;
end
$$;

grant select, insert, update, delete on public.import_sources to import_worker;


-- 2. The ledger: what became of every item that a source ever listed ------------------------------------------------

create table public.import_items (
    user_id uuid not null,
    source_app text not null,
    external_id text not null,
    status text not null,
    recording_id uuid,
    title text,
    location text,
    started_at timestamptz,
    attempts integer not null default 0,
    error_class text,
    error_message text,
    retry_at timestamptz,
    run_id text,
    first_seen_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    http_status smallint,
    request_id text,
    constraint import_items_pkey primary key (user_id, source_app, external_id),
    constraint import_items_user_id_fkey foreign key (user_id) references auth.users on delete cascade,
    constraint import_items_recording_id_fkey
        foreign key (recording_id) references public.recordings on delete set null,
    constraint import_items_source_app_check check (source_app <> ''),
    constraint import_items_external_id_check check (octet_length(external_id) between 1 and 512),
    constraint import_items_status_check check (status in ('imported', 'waiting', 'failed', 'ignored')),
    constraint import_items_attempts_check check (attempts >= 0),
    constraint import_items_error_class_check check (
        error_class in ('auth', 'rate', 'transient', 'data', 'permanent', 'bug')
    )
);
alter table public.import_items enable row level security;

comment on table public.import_items is
    'The ledger of import_pipeline. Progress, failures, retries and completeness are counted from it.';
comment on column public.import_items.recording_id is
    'Null for an imported item means that the recording was deleted since: it stays deleted until asked for again.';
comment on column public.import_items.location is 'Where the source keeps it: a path or a link.';
comment on column public.import_items.retry_at is 'When to ask the source again; null: not by itself.';
comment on column public.import_items.http_status is 'What the source answered to the last attempt that failed.';
comment on column public.import_items.request_id is 'By what the source''s support finds that attempt.';

-- Deleting a recording looks for its item here.
create index import_items_recording_id_idx on public.import_items (recording_id);
create index import_items_run_id_idx on public.import_items (run_id);
-- Most items are imported and never looked for by status; leaving them out keeps writing the ledger cheap.
create index import_items_unfinished_idx on public.import_items (user_id, source_app, status, retry_at)
    where status <> 'imported';

revoke all on public.import_items from anon, authenticated;
grant select on public.import_items to authenticated;
grant select, insert, update, delete on public.import_items to service_role;
grant select, insert, update on public.import_items to import_worker;

create policy "Users see what became of their items" on public.import_items
    for select to authenticated using (user_id = (select auth.uid()));
create policy "Import worker sees the claimed user's items" on public.import_items
    for select to import_worker using (user_id = (select auth.uid()));
create policy "Import worker adds the claimed user's items" on public.import_items
    for insert to import_worker with check (user_id = (select auth.uid()));
create policy "Import worker updates the claimed user's items" on public.import_items
    for update to import_worker
    using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
-- The importer works for accounts only. A run writes a recording and its row here in one transaction, so what the
-- ledger refuses is not imported. An explicit call of `run_pipeline` writes no ledger, and needs no account.
create policy "Import worker adds only items of claimed accounts" on public.import_items
    as restrictive for insert to import_worker
    with check (source_app = any ((select import_pipeline.claimed_sources())::text[]));
