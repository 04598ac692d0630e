-- Functions that see more than their caller. Each is `security definer` with an empty search_path, and executable only
-- by the roles named beside it: Postgres itself would let everybody execute it, and Supabase's default privileges its
-- roles.


-- 1. Which accounts there are ---------------------------------------------------------------------------------------

create function import_pipeline.find_user(p_email text)
returns uuid
language plpgsql
stable security definer
set search_path = ''
as $$
begin
    return (select u.id from auth.users as u where lower(u.email) = lower(p_email));
exception when cardinality_violation then
    raise exception 'Several users have the e-mail address %.', p_email using errcode = 'cardinality_violation';
end
$$;
comment on function import_pipeline.find_user(text) is 'The user with this e-mail address in any case; null: nobody.';

create function import_pipeline.find_accounts(p_source_app text, p_user_ids uuid[])
returns table (
    id uuid, user_id uuid, source_app text, account_email text, is_active boolean, last_sync_at timestamptz, email text
)
language sql
stable security definer
set search_path = ''
as $$
    select s.id, s.user_id, s.source_app::text, s.account_email::text, s.is_active, s.last_sync_at, u.email::text
    from public.import_sources as s
    left join auth.users as u on u.id = s.user_id
    where s.source_app = p_source_app
        and (s.user_id = any (p_user_ids) or (p_user_ids is null and s.is_active))
    order by s.last_sync_at nulls first, s.id
$$;
comment on function import_pipeline.find_accounts(text, uuid[]) is
    'Accounts of a source: those of the given users, active or not; given null, all active ones.';

create function import_pipeline.due_accounts(p_source_app text)
returns table (
    id uuid, user_id uuid, source_app text, account_email text, is_active boolean, last_sync_at timestamptz, email text,
    next_retry_at timestamptz
)
language sql
stable security definer
set search_path = ''
as $$
    select
        a.*,
        (
            select min(i.retry_at)
            from public.import_items as i
            where i.user_id = a.user_id and i.source_app = a.source_app and i.status = 'waiting'
        )
    from import_pipeline.find_accounts(p_source_app, null) as a
    where not exists (
        select from import_pipeline.leases as l where l.account_id = a.id and l.expires_at > now()
    )
$$;
comment on function import_pipeline.due_accounts(text) is
    'Active accounts of a source that no run is working on, longest not synced first, with their next waiting item.';


-- 2. What policies ask ----------------------------------------------------------------------------------------------
-- Functions and not subqueries: a subquery in a policy is itself subject to the policies of the tables it reads, and on
-- an existing installation those may lead back to the table in question ("infinite recursion detected").

create function import_pipeline.claimed_bank_ids()
returns uuid[]
language plpgsql
stable security definer
set search_path = ''
as $$
begin
    return array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()));
end
$$;
comment on function import_pipeline.claimed_bank_ids() is 'The banks of the user whom the claims name; empty: none.';

create function import_pipeline.may_enter(p_recording_id uuid, p_vault_id uuid)
returns boolean
language plpgsql
stable security definer
set search_path = ''
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

revoke all on function
    import_pipeline.find_user(text),
    import_pipeline.find_accounts(text, uuid[]),
    import_pipeline.due_accounts(text),
    import_pipeline.claimed_bank_ids(),
    import_pipeline.may_enter(uuid, uuid)
    from public, anon, authenticated, service_role;
grant execute on function
    import_pipeline.find_user(text),
    import_pipeline.find_accounts(text, uuid[]),
    import_pipeline.due_accounts(text),
    import_pipeline.claimed_bank_ids(),
    import_pipeline.may_enter(uuid, uuid)
    to import_worker;


-- 3. Counts for the owner's application -----------------------------------------------------------------------------

do $$
declare
    v_result text;
begin
    select pg_get_function_result(p.oid) into v_result
    from pg_catalog.pg_proc as p
    where p.oid = to_regprocedure('public.get_import_counts(uuid)');
    -- `create or replace` keeps owner and grants, but cannot change what a function returns or calls its argument.
    if v_result <> 'TABLE(source_app text, call_count bigint)' or exists (
        select
        from pg_catalog.pg_proc
        where oid = to_regprocedure('public.get_import_counts(uuid)') and proargnames[1] is distinct from 'p_user_id'
    ) then
        raise warning 'Function public.get_import_counts(uuid) is replaced by one of another shape; it returned %.',
            v_result;
        drop function public.get_import_counts(uuid);
    end if;
exception when dependent_objects_still_exist then
    raise exception 'Function public.get_import_counts(uuid) returns %, and other objects depend on it.', v_result
        using errcode = 'dependent_objects_still_exist',
            hint = 'Rename it together with what uses it, then migrate again.';
end
$$;

create or replace function public.get_import_counts(p_user_id uuid)
returns table (source_app text, call_count bigint)
language plpgsql
stable security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    -- Without claims and not through the API's login role it is a direct connection of somebody who may execute this.
    if p_user_id is distinct from (select auth.uid())
        and (select auth.role()) is distinct from 'service_role'
        and not (coalesce((select auth.jwt()), '{}') = '{}' and (select auth.uid()) is null
            and session_user <> 'authenticator')
    then
        raise exception 'Import counts can only be read by the user they belong to.'
            using errcode = 'insufficient_privilege';
    end if;
    return query
        select r.source_app::text, count(*)
        from public.recordings as r
        where r.owner_user_id = p_user_id
        group by 1
        order by 1;
end
$$;
comment on function public.get_import_counts(uuid) is
    'How many recordings a user has of each source; answers only the user himself and trusted callers.';
revoke all on function public.get_import_counts(uuid) from public, anon;
grant execute on function public.get_import_counts(uuid) to authenticated, service_role, import_worker;
