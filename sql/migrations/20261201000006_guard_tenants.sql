-- What policies ask. Functions and not subqueries: a subquery in a policy is itself subject to the policies of the
-- tables it reads, and on an existing installation those may lead back to the table in question ("infinite recursion
-- detected").
--
-- Functions that see more than their caller, here and later, are `security definer` and executable only by the roles
-- that are named beside them: Postgres itself would let everybody execute them, and Supabase's default privileges its
-- roles. Their search_path names the temporary schema, so that it is searched last. With an empty one it comes first,
-- for types and tables: whoever made a domain `pg_temp.jsonb` had its check run with the rights of the function's
-- owner, since `auth.uid()` casts to jsonb.

grant usage on schema import_pipeline to import_worker;


-- 1. What belongs to the user whom the claims name ------------------------------------------------------------------

create function import_pipeline.claimed_bank_ids()
returns uuid[]
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    return array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()));
end
$$;
comment on function import_pipeline.claimed_bank_ids() is 'The banks of the user whom the claims name; empty: none.';

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

create function import_pipeline.may_enter(p_recording_id uuid, p_vault_id uuid)
returns boolean
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    return exists (
        select
        from public.recordings as r
        join public.vaults as v on v.bank_id = r.bank_id
        where r.id = p_recording_id and v.id = p_vault_id and r.owner_user_id = (select auth.uid())
    );
end
$$;
comment on function import_pipeline.may_enter(uuid, uuid) is
    'Whether the claimed user owns the recording and the vault lies in its bank.';


-- 2. Which vaults a user may write to -------------------------------------------------------------------------------
-- That a vault lies in a bank of theirs is not enough, since colleagues have private vaults in it, and guests may only
-- read. Their role in the vault decides. Only where nobody has said anything about it the bank does: who is alone in a
-- bank has all of it, who owns or administers one may write to vaults that are nobody's, and where no memberships of
-- vaults are kept at all everybody in a bank may write to all of its vaults.

create function import_pipeline.enterable_vault_ids()
returns uuid[]
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
declare
    v_user uuid := auth.uid();
    v_banks uuid[] := import_pipeline.claimed_bank_ids();
    v_is_kept boolean := exists (select from public.vault_memberships);
begin
    return array(
        select v.id
        from public.vaults as v
        where v.bank_id = any (v_banks)
            and case
                when exists (
                    select from public.vault_memberships as m where m.vault_id = v.id and m.user_id = v_user
                ) then exists (
                    select
                    from public.vault_memberships as m
                    where m.vault_id = v.id
                        and m.user_id = v_user
                        and m.role::text in ('vault_owner', 'vault_admin', 'manager', 'member')
                )
                when not exists (
                    select
                    from public.bank_memberships as m
                    where m.bank_id = v.bank_id and m.user_id is distinct from v_user
                ) then true
                when exists (select from public.vault_memberships as m where m.vault_id = v.id) then false
                else not v_is_kept or exists (
                    select
                    from public.bank_memberships as m
                    where m.bank_id = v.bank_id
                        and m.user_id = v_user
                        -- An installation of the owner's may know no roles.
                        and to_jsonb(m) ->> 'role' in ('bank_owner', 'bank_admin')
                )
            end
    );
end
$$;
comment on function import_pipeline.enterable_vault_ids() is
    'The vaults that the user whom the claims name may put recordings into; empty: none.';

create function import_pipeline.default_vaults()
returns table (bank_id uuid, vault_id uuid)
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
declare
    v_user uuid := auth.uid();
    v_vaults uuid[] := import_pipeline.enterable_vault_ids();
begin
    return query
        select distinct on (v.bank_id) v.bank_id, v.id
        from public.vaults as v
        cross join lateral (
            select
                coalesce(bool_or(m.user_id = v_user and m.role::text = 'vault_owner'), false) as is_his,
                coalesce(bool_or(m.user_id = v_user), false) as has_him,
                coalesce(bool_or(m.user_id <> v_user and m.role::text = 'vault_owner'), false) as is_anothers
            from public.vault_memberships as m
            where m.vault_id = v.id
        ) as members
        where v.id = any (v_vaults)
            and v.vault_type::text = 'personal'
            and (members.is_his or not members.is_anothers)
        order by v.bank_id, members.is_his desc, members.has_him desc, v.id;
end
$$;
comment on function import_pipeline.default_vaults() is
    'Of each bank of the claimed user the personal vault for recordings that name none: his own, before one that is '
    'nobody''s, and never a colleague''s; of several, always the same one.';

revoke all on function
    import_pipeline.claimed_bank_ids(),
    import_pipeline.claimed_sources(),
    import_pipeline.claimed_account_ids(),
    import_pipeline.may_enter(uuid, uuid),
    import_pipeline.enterable_vault_ids(),
    import_pipeline.default_vaults()
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.claimed_bank_ids(),
    import_pipeline.claimed_sources(),
    import_pipeline.claimed_account_ids(),
    import_pipeline.may_enter(uuid, uuid),
    import_pipeline.enterable_vault_ids(),
    import_pipeline.default_vaults()
    to import_worker;
