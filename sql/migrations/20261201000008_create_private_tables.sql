-- What only the importer may see. Row-level security is on although import_worker may see all rows: a grant that
-- somebody gives by mistake to a role of the API shows nothing then.


-- 1. Credentials ----------------------------------------------------------------------------------------------------

create table import_pipeline.credentials (
    account_id uuid not null,
    secret bytea not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    options jsonb not null default '{}',
    constraint credentials_pkey primary key (account_id),
    constraint credentials_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade
);
alter table import_pipeline.credentials enable row level security;
comment on column import_pipeline.credentials.secret is 'Encrypted; the key is never in the database.';
comment on column import_pipeline.credentials.options is 'What to import besides the credential: addresses; no secret.';


-- 2. Leases: one run per account at a time --------------------------------------------------------------------------
-- Runs over history lend theirs to those for what is new, and get it back afterwards.

create table import_pipeline.leases (
    account_id uuid not null,
    holder text not null,
    holder_process text not null,
    acquired_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    expires_at timestamptz not null,
    lane text not null default 'live',
    wanted_by text,
    wanted_by_process text,
    wanted_at timestamptz,
    lent_by text,
    lent_by_process text,
    constraint leases_pkey primary key (account_id),
    constraint leases_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade,
    constraint leases_lane_check check (lane in ('live', 'history'))
);
alter table import_pipeline.leases enable row level security;
comment on column import_pipeline.leases.holder is 'Id of the root run, so that a re-execution keeps the lease.';
comment on column import_pipeline.leases.lane is 'Whether its holder imports what is new, or a month of history.';
comment on column import_pipeline.leases.wanted_by is 'The live run that waits for a holder in the history lane.';
comment on column import_pipeline.leases.lent_by is 'The run over history that gets it back from its holder.';


-- 3. Rate budgets: what all processes together may still ask of a provider ------------------------------------------
-- A log of requests: a bucket of tokens admits more than the limit within one span when requests arrive late. It is
-- kept in grains of a hundredth of the span: at most a hundred and one pairs, however high the limit.

create table import_pipeline.rate_budgets (
    account_id uuid not null,
    name text not null,
    updated_at timestamptz not null default now(),
    blocked_until timestamptz,
    counted_at double precision[] not null default '{}',
    counts integer[] not null default '{}',
    live_waits_until timestamptz,
    constraint rate_budgets_pkey primary key (account_id, name),
    constraint rate_budgets_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade,
    constraint rate_budgets_counts_check check (cardinality(counted_at) = cardinality(counts))
);
alter table import_pipeline.rate_budgets enable row level security;
comment on column import_pipeline.rate_budgets.blocked_until is 'The provider asked for silence until then.';
comment on column import_pipeline.rate_budgets.counted_at is 'Ends of grains, epoch seconds; paired with counts.';
comment on column import_pipeline.rate_budgets.counts is 'Requests in each grain; they count for one span after it.';
comment on column import_pipeline.rate_budgets.live_waits_until is 'Until then a free place is kept for a live run.';


-- 4. Polls: when each account is asked for new calls again, which schedules and sensors go by -----------------------

create table import_pipeline.polls (
    account_id uuid not null,
    attempts integer not null default 0,
    requested_at timestamptz,
    not_before timestamptz,
    due_at timestamptz,
    constraint polls_pkey primary key (account_id),
    constraint polls_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade,
    constraint polls_attempts_check check (attempts >= 0)
);
alter table import_pipeline.polls enable row level security;
comment on table import_pipeline.polls is 'When an account is due for a run; without a row it is due at once.';
comment on column import_pipeline.polls.attempts is 'Runs that were asked for since the last one that went well.';
comment on column import_pipeline.polls.requested_at is 'When a run was asked for that has not come to its end yet.';
comment on column import_pipeline.polls.not_before is 'No run is asked for before this moment, whatever is due.';
comment on column import_pipeline.polls.due_at is 'When to look for something new; null: at once.';


-- 5. Dropped files: those that were asked for and worked through, which the sensor of the drop folder goes by --------

create table import_pipeline.dropped_files (
    account_id uuid not null,
    version uuid not null,
    request text not null,
    is_settled boolean not null default false,
    constraint dropped_files_pkey primary key (account_id, version),
    constraint dropped_files_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade
);
alter table import_pipeline.dropped_files enable row level security;
comment on table import_pipeline.dropped_files is 'Files in the drop folder that need no run, or have one already.';
comment on column import_pipeline.dropped_files.version is
    'Computed from path, size and time of the last change: a file that changes or moves is another one.';
comment on column import_pipeline.dropped_files.request is 'The run key under which the file was asked for.';
comment on column import_pipeline.dropped_files.is_settled is 'Whether that run was worked to its end.';


-- 6. Shared folders: what lies there is read as that of the people who fill them, by every later command -------------

create table import_pipeline.shared_folders (
    path text not null,
    is_dropped boolean not null,
    noted_at timestamptz not null default now(),
    constraint shared_folders_pkey primary key (path, is_dropped)
);
alter table import_pipeline.shared_folders enable row level security;
comment on table import_pipeline.shared_folders is
    'Folders that other people fill, also those that no setting names any more: links below them are never followed.';
comment on column import_pipeline.shared_folders.path is 'Absolute, or a file:// address where its bytes are no text.';
comment on column import_pipeline.shared_folders.is_dropped is
    'It was the drop folder, in which each folder belongs to one user; else uploads from the UI were allowed from it.';


-- 7. Who may use them -----------------------------------------------------------------------------------------------
-- In a user's name the importer reaches what belongs to their accounts. Credentials it reaches in no other way. The
-- others it also reaches in nobody's name, where it works for many accounts at once: a run renews all its leases with
-- one statement, a tick asks for runs of hundreds of accounts, processes share the budget of an account whose owner
-- they do not know. Whoever may work in anybody's name could do that anyway.

revoke all on
    import_pipeline.credentials, import_pipeline.leases, import_pipeline.rate_budgets, import_pipeline.polls,
    import_pipeline.dropped_files, import_pipeline.shared_folders
    from public, anon, authenticated;
grant select, insert, update, delete on
    import_pipeline.credentials, import_pipeline.leases, import_pipeline.rate_budgets, import_pipeline.polls,
    import_pipeline.dropped_files
    to import_worker;
grant select, insert on import_pipeline.shared_folders to import_worker;

create policy "Import worker keeps credentials" on import_pipeline.credentials
    for all to import_worker
    using (account_id = any ((select import_pipeline.claimed_account_ids())::uuid[]))
    with check (account_id = any ((select import_pipeline.claimed_account_ids())::uuid[]));

create policy "Import worker keeps leases" on import_pipeline.leases
    for all to import_worker
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );

create policy "Import worker keeps rate budgets" on import_pipeline.rate_budgets
    for all to import_worker
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );

create policy "Import worker keeps polls" on import_pipeline.polls
    for all to import_worker
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );

create policy "Import worker keeps dropped files" on import_pipeline.dropped_files
    for all to import_worker
    using (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    )
    with check (
        (select auth.uid()) is null or account_id = any ((select import_pipeline.claimed_account_ids())::uuid[])
    );

create policy "Import worker remembers shared folders" on import_pipeline.shared_folders
    for all to import_worker using (true) with check (true);
