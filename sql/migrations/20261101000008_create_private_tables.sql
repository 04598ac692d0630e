-- What only the importer may see. Row-level security is on although import_worker may see all rows: a grant that
-- somebody gives by mistake to a role of the API shows nothing then.

grant usage on schema import_pipeline to import_worker;


-- 1. Credentials ----------------------------------------------------------------------------------------------------

create table import_pipeline.credentials (
    account_id uuid not null,
    secret bytea not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint credentials_pkey primary key (account_id),
    constraint credentials_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade
);
alter table import_pipeline.credentials enable row level security;
comment on column import_pipeline.credentials.secret is 'Encrypted; the key is never in the database.';


-- 2. Leases: one run per account at a time --------------------------------------------------------------------------

create table import_pipeline.leases (
    account_id uuid not null,
    holder text not null,
    holder_process text not null,
    acquired_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    expires_at timestamptz not null,
    constraint leases_pkey primary key (account_id),
    constraint leases_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade
);
alter table import_pipeline.leases enable row level security;
comment on column import_pipeline.leases.holder is 'Id of the root run, so that a re-execution keeps the lease.';


-- 3. Rate budgets: what all processes together may still ask of a provider ------------------------------------------

create table import_pipeline.rate_budgets (
    account_id uuid not null,
    name text not null,
    tokens double precision not null,
    updated_at timestamptz not null default now(),
    blocked_until timestamptz,
    constraint rate_budgets_pkey primary key (account_id, name),
    constraint rate_budgets_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade
);
alter table import_pipeline.rate_budgets enable row level security;
comment on column import_pipeline.rate_budgets.blocked_until is 'The provider asked for silence until then.';


-- 4. Who may use them -----------------------------------------------------------------------------------------------

revoke all on import_pipeline.credentials, import_pipeline.leases, import_pipeline.rate_budgets
    from public, anon, authenticated;
grant select, insert, update, delete
    on import_pipeline.credentials, import_pipeline.leases, import_pipeline.rate_budgets to import_worker;

create policy "Import worker keeps credentials" on import_pipeline.credentials
    for all to import_worker using (true) with check (true);
create policy "Import worker keeps leases" on import_pipeline.leases
    for all to import_worker using (true) with check (true);
create policy "Import worker keeps rate budgets" on import_pipeline.rate_budgets
    for all to import_worker using (true) with check (true);
