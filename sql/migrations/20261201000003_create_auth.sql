-- Users and their claims, for a Postgres without Supabase: the least that tables and policies refer to, under the same
-- names and with the same behaviour. Whatever is there already stays as it is.

do $$
begin
    if to_regnamespace('auth') is null then
        create schema auth;
        grant usage on schema auth to anon, authenticated, service_role;
        comment on schema auth is 'Users and claims, named and shaped as on Supabase.';
    end if;

    if to_regclass('auth.users') is null then
        create table auth.users (
            id uuid not null default gen_random_uuid(),
            email varchar(255),
            created_at timestamptz default now(),
            updated_at timestamptz default now(),
            constraint users_pkey primary key (id)
        );
        alter table auth.users enable row level security;
        create unique index users_email_key on auth.users (lower(email::text collate "C"));
        revoke all on auth.users from public, anon, authenticated;
        grant select, insert, update, delete on auth.users to service_role;
    end if;

    if to_regprocedure('auth.uid()') is null then
        create function auth.uid() returns uuid language sql stable as $function$
            select coalesce(
                nullif(current_setting('request.jwt.claim.sub', true), ''),
                nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
            )::uuid
        $function$;
        comment on function auth.uid() is 'The user whom the request speaks for; null without claims.';
    end if;

    if to_regprocedure('auth.role()') is null then
        create function auth.role() returns text language sql stable as $function$
            select coalesce(
                nullif(current_setting('request.jwt.claim.role', true), ''),
                nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
            )
        $function$;
        comment on function auth.role() is 'The API role that the claims name; null without claims.';
    end if;

    if to_regprocedure('auth.jwt()') is null then
        create function auth.jwt() returns jsonb language sql stable as $function$
            select coalesce(
                nullif(current_setting('request.jwt.claim', true), ''),
                nullif(current_setting('request.jwt.claims', true), '')
            )::jsonb
        $function$;
        comment on function auth.jwt() is 'All claims of the request; null without claims.';
    end if;
end
$$;
