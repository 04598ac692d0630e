-- The ledger: what became of every item that a source ever listed.

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
