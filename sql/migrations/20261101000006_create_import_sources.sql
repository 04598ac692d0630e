-- Accounts: one user's connection to one source each.

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
