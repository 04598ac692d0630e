-- A call library that was here before import_pipeline: made up, in the manner of a product on Supabase. It has what such
-- products have: default privileges, policies for public that ask other tables, a trigger, a full-text index, columns of
-- its own, integer arrays in sync_jobs, and an import count that answers everybody. Run as the role that owns it.

alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;


-- 1. Tables ---------------------------------------------------------------------------------------------------------

create table public.banks (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    type text not null check (type in ('personal', 'business')),
    logo_url text,
    created_at timestamptz default now()
);

create table public.bank_memberships (
    id uuid primary key default gen_random_uuid(),
    bank_id uuid not null references public.banks on delete cascade,
    user_id uuid not null references auth.users on delete cascade,
    role text not null default 'bank_member',
    invited_by uuid
);

create table public.vaults (
    id uuid primary key default gen_random_uuid(),
    bank_id uuid not null references public.banks on delete cascade,
    name text not null,
    vault_type text not null default 'personal'
);

create table public.vault_memberships (
    id uuid primary key default gen_random_uuid(),
    vault_id uuid not null references public.vaults on delete cascade,
    user_id uuid not null references auth.users on delete cascade,
    role text not null default 'member'
);

create table public.recordings (
    id uuid primary key default gen_random_uuid(),
    legacy_recording_id bigint,
    bank_id uuid not null references public.banks on delete cascade,
    owner_user_id uuid not null references auth.users on delete cascade,
    title text not null,
    audio_url text,
    video_url text,
    full_transcript text,
    summary text,
    global_tags text[] default '{}',
    source_app text,
    source_metadata jsonb default '{}',
    duration integer,
    recording_start_time timestamptz,
    recording_end_time timestamptz,
    sentiment numeric,
    created_at timestamptz default now(),
    synced_at timestamptz,
    updated_at timestamptz default now(),
    unique (bank_id, legacy_recording_id)
);
create index recordings_full_text on public.recordings using gin (to_tsvector('english', full_transcript));
create index recordings_by_start on public.recordings (bank_id, recording_start_time desc);

create table public.vault_entries (
    id uuid primary key default gen_random_uuid(),
    vault_id uuid not null references public.vaults on delete cascade,
    recording_id uuid not null references public.recordings on delete cascade,
    folder_id uuid,
    local_tags text[] default '{}',
    scores jsonb,
    notes text,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    unique (vault_id, recording_id)
);

create table public.sync_jobs (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users on delete cascade,
    status text not null default 'processing',
    type text,
    started_at timestamptz default now(),
    completed_at timestamptz,
    error text,
    metadata jsonb default '{}',
    recording_ids integer[],
    progress_current integer default 0,
    progress_total integer default 0,
    synced_ids integer[],
    failed_ids integer[],
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

-- Things of the product that we know nothing of.
create table public.comments (
    id bigint generated always as identity primary key,
    recording_id uuid not null references public.recordings on delete cascade,
    body text not null
);
create table public.activity (
    id bigint generated always as identity primary key,
    what text not null
);
create view public.latest_recordings as
    select id, title from public.recordings order by created_at desc limit 10;


-- 2. Functions and triggers -----------------------------------------------------------------------------------------

create function public.is_member(p_bank_id uuid) returns boolean
language sql stable security definer set search_path = public as $$
    select exists (select from public.bank_memberships where bank_id = p_bank_id and user_id = auth.uid())
$$;
revoke execute on function public.is_member(uuid) from public;

create function public.note_recording() returns trigger language plpgsql security definer as $$
begin
    new.updated_at := now();
    insert into public.activity (what) values ('recording ' || new.title);
    return new;
end
$$;
create trigger note_recording before insert or update on public.recordings
    for each row execute function public.note_recording();

create function public.get_import_counts(p_user_id uuid) returns table (source_app text, call_count bigint)
language sql security definer as $$
    select source_app, count(*) from recordings where owner_user_id = p_user_id group by source_app
$$;

-- A call of one's own, put into another bank as well. All of it is copied but the id.
create function public.copy_recording_to_organization(
    p_recording_id uuid, p_target_bank_id uuid, p_target_vault_id uuid default null
) returns uuid language plpgsql security definer set search_path = public as $$
declare
    v_source public.recordings;
    v_copy uuid := gen_random_uuid();
begin
    select * into v_source from public.recordings where id = p_recording_id;
    if not found or v_source.owner_user_id is distinct from auth.uid() then
        raise exception 'Recording not found or not yours';
    end if;
    if not public.is_member(p_target_bank_id) then
        raise exception 'You are not a member of the target organization';
    end if;
    insert into public.recordings (
        id, bank_id, owner_user_id, title, audio_url, video_url, full_transcript, summary, global_tags, source_app,
        source_metadata, duration, recording_start_time, recording_end_time, sentiment, created_at, synced_at
    ) values (
        v_copy, p_target_bank_id, v_source.owner_user_id, v_source.title, v_source.audio_url, v_source.video_url,
        v_source.full_transcript, v_source.summary, v_source.global_tags, v_source.source_app,
        v_source.source_metadata, v_source.duration, v_source.recording_start_time, v_source.recording_end_time,
        v_source.sentiment, v_source.created_at, v_source.synced_at
    );
    if p_target_vault_id is not null then
        insert into public.vault_entries (vault_id, recording_id) values (p_target_vault_id, v_copy);
    end if;
    return v_copy;
end
$$;
revoke execute on function public.copy_recording_to_organization(uuid, uuid, uuid) from public, anon;


-- 3. Policies -------------------------------------------------------------------------------------------------------

alter table public.banks enable row level security;
alter table public.bank_memberships enable row level security;
alter table public.vaults enable row level security;
alter table public.vault_memberships enable row level security;
alter table public.recordings enable row level security;
alter table public.vault_entries enable row level security;
alter table public.sync_jobs enable row level security;
alter table public.comments enable row level security;

create policy "banks of members" on public.banks using (public.is_member(id));
create policy "own memberships" on public.bank_memberships for select using (user_id = auth.uid());
create policy "vaults of members" on public.vaults using (public.is_member(bank_id));
create policy "own vault memberships" on public.vault_memberships for select using (user_id = auth.uid());
-- These two lead to each other's tables, as policies of grown products do.
create policy "recordings of own vaults" on public.recordings for select using (
    owner_user_id = auth.uid()
    or exists (select from public.vault_entries as e where e.recording_id = recordings.id and public.is_member(bank_id))
);
create policy "own recordings" on public.recordings for all to authenticated
    using (owner_user_id = auth.uid()) with check (owner_user_id = auth.uid());
-- Wide: whoever owns a recording may put it into any bank.
create policy "anybody adds his recordings" on public.recordings for insert with check (owner_user_id = auth.uid());
create policy "entries of own vaults" on public.vault_entries for select using (
    vault_id in (select vault_id from public.vault_memberships where user_id = auth.uid())
);
create policy "own jobs" on public.sync_jobs for all using (user_id = auth.uid());
create policy "all comments" on public.comments using (true);


-- 4. Rows -----------------------------------------------------------------------------------------------------------

insert into auth.users (id, email) values
    ('00000000-0000-4000-8000-00000000000a', 'Ana@Example.com'),
    ('00000000-0000-4000-8000-00000000000e', 'eva@example.com');
insert into public.banks (id, name, type) values
    ('10000000-0000-4000-8000-00000000000a', 'Ana', 'personal'),
    ('10000000-0000-4000-8000-00000000000e', 'Eva', 'personal'),
    ('10000000-0000-4000-8000-00000000000c', 'Acme', 'business');
insert into public.bank_memberships (bank_id, user_id, role) values
    ('10000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000a', 'bank_owner'),
    ('10000000-0000-4000-8000-00000000000c', '00000000-0000-4000-8000-00000000000a', 'bank_member'),
    ('10000000-0000-4000-8000-00000000000e', '00000000-0000-4000-8000-00000000000e', 'bank_owner');
insert into public.vaults (id, bank_id, name) values
    ('20000000-0000-4000-8000-00000000000a', '10000000-0000-4000-8000-00000000000a', 'Calls'),
    ('20000000-0000-4000-8000-00000000000b', '10000000-0000-4000-8000-00000000000a', 'Sales'),
    ('20000000-0000-4000-8000-00000000000c', '10000000-0000-4000-8000-00000000000c', 'Team'),
    ('20000000-0000-4000-8000-00000000000e', '10000000-0000-4000-8000-00000000000e', 'Calls');
insert into public.vault_memberships (vault_id, user_id) values
    ('20000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000a'),
    ('20000000-0000-4000-8000-00000000000e', '00000000-0000-4000-8000-00000000000e');
insert into public.recordings
    (id, bank_id, owner_user_id, title, full_transcript, source_app, source_metadata, legacy_recording_id, created_at)
values
    ('30000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-00000000000a',
     '00000000-0000-4000-8000-00000000000a', 'Kick-off', 'Hello', 'fathom', '{"external_id": "101"}', 101, '2025-01-01'),
    ('30000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-00000000000a',
     '00000000-0000-4000-8000-00000000000a', 'Pasted', 'Hello', 'fathom', '{}', null, '2025-01-02'),
    ('30000000-0000-4000-8000-000000000003', '10000000-0000-4000-8000-00000000000a',
     '00000000-0000-4000-8000-00000000000a', 'Pasted', 'Hello', 'fathom', '{"external_id": null}', null, '2025-01-03'),
    ('30000000-0000-4000-8000-000000000004', '10000000-0000-4000-8000-00000000000a',
     '00000000-0000-4000-8000-00000000000a', 'Typed', 'Hello', null, null, null, '2025-01-04');
insert into public.vault_entries (vault_id, recording_id, notes)
    select '20000000-0000-4000-8000-00000000000a', id, 'by Ana' from public.recordings;
insert into public.comments (recording_id, body) select id, 'Nice' from public.recordings;
insert into public.sync_jobs (user_id, type, recording_ids, synced_ids)
    values ('00000000-0000-4000-8000-00000000000a', 'fathom', '{101}', '{101}');
