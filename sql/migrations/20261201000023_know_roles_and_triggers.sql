-- Roles in vaults may have other names than ours in a library that was there before, and who is alone in a bank has
-- all of it but where they are a guest, whatever other roles are called. What the importer does not know is named, by
-- `migrate` and by `audit`.


-- 1. Which vaults a user may write to -------------------------------------------------------------------------------
-- As before, but that they are alone in the bank is asked first.

create or replace function import_pipeline.enterable_vault_ids()
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
                when not exists (
                    select
                    from public.bank_memberships as m
                    where m.bank_id = v.bank_id and m.user_id is distinct from v_user
                ) then not exists (
                    select
                    from public.vault_memberships as m
                    where m.vault_id = v.id and m.user_id = v_user and m.role::text = 'guest'
                )
                when exists (
                    select from public.vault_memberships as m where m.vault_id = v.id and m.user_id = v_user
                ) then exists (
                    select
                    from public.vault_memberships as m
                    where m.vault_id = v.id
                        and m.user_id = v_user
                        and m.role::text in ('vault_owner', 'vault_admin', 'manager', 'member')
                )
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


-- 2. What is not known ----------------------------------------------------------------------------------------------

create function import_pipeline.unknown_vault_roles()
returns text[]
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    return array(
        select distinct coalesce(m.role::text, '')
        from public.vault_memberships as m
        where coalesce(m.role::text, '') not in ('vault_owner', 'vault_admin', 'manager', 'member', 'guest')
        order by 1
    );
end
$$;
comment on function import_pipeline.unknown_vault_roles() is
    'The roles in vaults of which the importer does not know what they allow: it takes them for those of guests.';

create function import_pipeline.known_triggers()
returns text[]
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    return (
        select array(select jsonb_array_elements_text(m.objects -> 'triggers'))
        from import_pipeline.schema_migrations as m
        where m.objects ? 'triggers'
        order by m.applied_at desc, m.version desc
        limit 1
    );
end
$$;
comment on function import_pipeline.known_triggers() is
    'The triggers that were on the tables of the library when it was last migrated; null: nobody wrote them down.';

revoke all on function import_pipeline.unknown_vault_roles(), import_pipeline.known_triggers()
    from public, anon, authenticated, service_role;
grant execute on function import_pipeline.unknown_vault_roles(), import_pipeline.known_triggers() to import_worker;

do $$
declare
    v_roles text[] := import_pipeline.unknown_vault_roles();
begin
    if cardinality(v_roles) > 0 then
        raise warning 'The importer does not know these roles in vaults: "%".', array_to_string(v_roles, '", "')
            using hint = 'Who has one puts calls into vaults of their own banks only; elsewhere that takes the role '
                'vault_owner, vault_admin, manager or member.';
    end if;
end
$$;
