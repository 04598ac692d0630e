-- The call library that recordings are imported into. Each table is created only where it is missing, together with its
-- policies; a table that exists is not touched here.
--
-- Who may do what through the API: members see their bank's recordings and their vaults' entries, owners change and
-- delete their own recordings, nobody else anything. Each subquery in a policy is evaluated once per statement.


-- 1. Banks: the tenants ---------------------------------------------------------------------------------------------

do $$
declare
    v_is_new boolean := to_regclass('public.banks') is null;
begin
    if v_is_new then
        create table public.banks (
            id uuid not null default gen_random_uuid(),
            name text not null,
            type text not null default 'personal',
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            constraint banks_pkey primary key (id),
            constraint banks_type_check check (type in ('personal', 'business'))
        );
        alter table public.banks enable row level security;
        revoke all on public.banks from anon, authenticated;
        grant select on public.banks to authenticated;
        grant select, insert, update, delete on public.banks to service_role;
        comment on table public.banks is 'The tenant boundary: every recording lies in exactly one bank.';
    end if;

    if to_regclass('public.bank_memberships') is null then
        create table public.bank_memberships (
            id uuid not null default gen_random_uuid(),
            bank_id uuid not null,
            user_id uuid not null,
            role text not null default 'bank_member',
            created_at timestamptz not null default now(),
            constraint bank_memberships_pkey primary key (id),
            constraint bank_memberships_bank_id_user_id_key unique (bank_id, user_id),
            constraint bank_memberships_bank_id_fkey foreign key (bank_id) references public.banks on delete cascade,
            constraint bank_memberships_user_id_fkey foreign key (user_id) references auth.users on delete cascade,
            constraint bank_memberships_role_check check (role in ('bank_owner', 'bank_admin', 'bank_member'))
        );
        alter table public.bank_memberships enable row level security;
        create index bank_memberships_user_id_idx on public.bank_memberships (user_id);
        revoke all on public.bank_memberships from anon, authenticated;
        grant select on public.bank_memberships to authenticated;
        grant select, insert, update, delete on public.bank_memberships to service_role;

        create policy "Users see their own memberships of banks" on public.bank_memberships
            for select to authenticated using (user_id = (select auth.uid()));
    end if;

    if v_is_new then
        create policy "Members see their banks" on public.banks
            for select to authenticated using (
                id = any (
                    array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()))
                )
            );
    end if;
end
$$;


-- 2. Vaults: what members of a bank share ---------------------------------------------------------------------------

do $$
declare
    v_is_new boolean := to_regclass('public.vaults') is null;
begin
    if v_is_new then
        create table public.vaults (
            id uuid not null default gen_random_uuid(),
            bank_id uuid not null,
            name text not null,
            vault_type text not null default 'personal',
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            constraint vaults_pkey primary key (id),
            constraint vaults_bank_id_fkey foreign key (bank_id) references public.banks on delete cascade,
            constraint vaults_vault_type_check check (
                vault_type in ('personal', 'team', 'coach', 'community', 'client')
            )
        );
        alter table public.vaults enable row level security;
        create index vaults_bank_id_idx on public.vaults (bank_id);
        revoke all on public.vaults from anon, authenticated;
        grant select on public.vaults to authenticated;
        grant select, insert, update, delete on public.vaults to service_role;
    end if;

    if to_regclass('public.vault_memberships') is null then
        create table public.vault_memberships (
            id uuid not null default gen_random_uuid(),
            vault_id uuid not null,
            user_id uuid not null,
            role text not null default 'member',
            created_at timestamptz not null default now(),
            constraint vault_memberships_pkey primary key (id),
            constraint vault_memberships_vault_id_user_id_key unique (vault_id, user_id),
            constraint vault_memberships_vault_id_fkey
                foreign key (vault_id) references public.vaults on delete cascade,
            constraint vault_memberships_user_id_fkey foreign key (user_id) references auth.users on delete cascade,
            constraint vault_memberships_role_check check (
                role in ('vault_owner', 'vault_admin', 'manager', 'member', 'guest')
            )
        );
        alter table public.vault_memberships enable row level security;
        create index vault_memberships_user_id_idx on public.vault_memberships (user_id);
        revoke all on public.vault_memberships from anon, authenticated;
        grant select on public.vault_memberships to authenticated;
        grant select, insert, update, delete on public.vault_memberships to service_role;

        create policy "Users see their own memberships of vaults" on public.vault_memberships
            for select to authenticated using (user_id = (select auth.uid()));
    end if;

    if v_is_new then
        create policy "Members see their vaults" on public.vaults
            for select to authenticated using (
                id = any (
                    array(select m.vault_id from public.vault_memberships as m where m.user_id = (select auth.uid()))
                )
            );
    end if;
end
$$;


-- 3. Recordings, and the vaults they stand in -----------------------------------------------------------------------

do $$
begin
    if to_regclass('public.recordings') is null then
        create table public.recordings (
            id uuid not null default gen_random_uuid(),
            legacy_recording_id bigint,
            bank_id uuid not null,
            owner_user_id uuid not null,
            title text not null,
            audio_url text,
            video_url text,
            full_transcript text,
            summary text,
            global_tags text[] not null default '{}',
            source_app text,
            source_metadata jsonb not null default '{}',
            duration integer,
            recording_start_time timestamptz,
            recording_end_time timestamptz,
            created_at timestamptz not null default now(),
            synced_at timestamptz,
            updated_at timestamptz not null default now(),
            constraint recordings_pkey primary key (id),
            constraint recordings_bank_id_legacy_recording_id_key unique (bank_id, legacy_recording_id),
            constraint recordings_bank_id_fkey foreign key (bank_id) references public.banks on delete cascade,
            constraint recordings_owner_user_id_fkey foreign key (owner_user_id) references auth.users on delete cascade
        );
        alter table public.recordings enable row level security;
        revoke all on public.recordings from anon, authenticated;
        grant select, update, delete on public.recordings to authenticated;
        grant select, insert, update, delete on public.recordings to service_role;
        comment on table public.recordings is 'One call each, whatever source it came from.';
        comment on column public.recordings.duration is 'Whole seconds.';
        comment on column public.recordings.source_metadata is
            'What the source said about the call; the key external_id is its identity there.';

        create policy "Members see their bank's recordings" on public.recordings
            for select to authenticated using (
                bank_id = any (
                    array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()))
                )
            );
        -- Who has left a bank takes nothing out of it and deletes nothing there: a statement that reads no column is
        -- not subject to the policy for reading, so these two ask for the bank as well. The check keeps an owner from
        -- moving a recording into a bank of strangers, or giving it to somebody else.
        create policy "Owners update their recordings" on public.recordings
            for update to authenticated
            using (
                owner_user_id = (select auth.uid())
                and bank_id = any (
                    array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()))
                )
            )
            with check (
                owner_user_id = (select auth.uid())
                and bank_id = any (
                    array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()))
                )
            );
        create policy "Owners delete their recordings" on public.recordings
            for delete to authenticated using (
                owner_user_id = (select auth.uid())
                and bank_id = any (
                    array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()))
                )
            );
    end if;

    if to_regclass('public.vault_entries') is null then
        create table public.vault_entries (
            id uuid not null default gen_random_uuid(),
            vault_id uuid not null,
            recording_id uuid not null,
            folder_id uuid,
            local_tags text[] not null default '{}',
            scores jsonb,
            notes text,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            constraint vault_entries_pkey primary key (id),
            constraint vault_entries_vault_id_recording_id_key unique (vault_id, recording_id),
            constraint vault_entries_vault_id_fkey foreign key (vault_id) references public.vaults on delete cascade,
            constraint vault_entries_recording_id_fkey
                foreign key (recording_id) references public.recordings on delete cascade
        );
        alter table public.vault_entries enable row level security;
        create index vault_entries_recording_id_idx on public.vault_entries (recording_id);
        revoke all on public.vault_entries from anon, authenticated;
        grant select on public.vault_entries to authenticated;
        grant select, insert, update, delete on public.vault_entries to service_role;
        comment on table public.vault_entries is 'Which recordings stand in which vault.';

        create policy "Members see their vaults' entries" on public.vault_entries
            for select to authenticated using (
                vault_id = any (
                    array(select m.vault_id from public.vault_memberships as m where m.user_id = (select auth.uid()))
                )
            );
    end if;
end
$$;


-- 4. Progress of imports --------------------------------------------------------------------------------------------

do $$
begin
    if to_regclass('public.sync_jobs') is null then
        create table public.sync_jobs (
            id uuid not null default gen_random_uuid(),
            user_id uuid not null,
            status text not null default 'processing',
            type text,
            started_at timestamptz not null default now(),
            completed_at timestamptz,
            error text,
            metadata jsonb not null default '{}',
            recording_ids text[] not null default '{}',
            progress_current integer not null default 0,
            progress_total integer not null default 0,
            synced_ids text[] not null default '{}',
            failed_ids text[] not null default '{}',
            skipped_count integer default 0,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            constraint sync_jobs_pkey primary key (id),
            constraint sync_jobs_user_id_fkey foreign key (user_id) references auth.users on delete cascade,
            constraint sync_jobs_status_check check (
                status in ('processing', 'completed', 'completed_with_errors', 'failed', 'cancelled')
            )
        );
        alter table public.sync_jobs enable row level security;
        create index sync_jobs_user_id_created_at_idx on public.sync_jobs (user_id, created_at);
        create index sync_jobs_run_id_idx on public.sync_jobs ((metadata ->> 'run_id'));
        revoke all on public.sync_jobs from anon, authenticated;
        grant select on public.sync_jobs to authenticated;
        grant select, insert, update, delete on public.sync_jobs to service_role;
        comment on table public.sync_jobs is 'Live progress, one row per account and run.';

        create policy "Users see their sync jobs" on public.sync_jobs
            for select to authenticated using (user_id = (select auth.uid()));
    end if;

    -- Asked first because `add column if not exists` locks the table even when there is nothing to add.
    if not exists (
        select
        from pg_catalog.pg_attribute
        where attrelid = 'public.sync_jobs'::regclass and attname = 'skipped_count' and not attisdropped
    ) then
        alter table public.sync_jobs add column skipped_count integer default 0;
    end if;
end
$$;
