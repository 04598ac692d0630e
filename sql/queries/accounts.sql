-- close_account: Leaves an account out of runs for everybody; its recordings and its ledger stay.
update public.import_sources set is_active = false, updated_at = now() where id = %(id)s and user_id = %(user_id)s

-- connect_account: Makes an account active and notes who it is at the source and what the credential may not do. If it
-- is somebody else than before, or imports something else, its history is listed again; returns whether.
with earlier as (
    select
        id,
        last_sync_at,
        is_another
            or lower(account_email::text collate "C") <> lower(%(account_email)s::text collate "C") as begins_anew
    from public.import_sources, (select %(is_another)s::boolean as is_another) as given
    where id = %(id)s and user_id = %(user_id)s
)
update public.import_sources as source
set is_active = true,
    account_email = coalesce(%(account_email)s, source.account_email),
    error_message = %(problem)s,
    last_sync_at = case when earlier.begins_anew then null else source.last_sync_at end,
    updated_at = now()
from earlier
where source.id = earlier.id and source.user_id = %(user_id)s
returning coalesce(earlier.begins_anew, false) and earlier.last_sync_at is not null

-- create_user: Creates a user with a personal bank and vault, on the embedded database, and returns the id.
with new_user as (
    insert into auth.users (id, email) values (gen_random_uuid(), %(email)s) returning id
), new_bank as (
    insert into public.banks (name, type) values ('Personal', 'personal') returning id
), new_vault as (
    insert into public.vaults (bank_id, name, vault_type) select id, 'Calls', 'personal' from new_bank returning id
), bank_owner as (
    insert into public.bank_memberships (bank_id, user_id, role)
    select new_bank.id, new_user.id, 'bank_owner' from new_bank, new_user
), vault_owner as (
    insert into public.vault_memberships (vault_id, user_id, role)
    select new_vault.id, new_user.id, 'vault_owner' from new_vault, new_user
)
select id from new_user

-- find_account: Returns the id of the user's account at a source.
select id from public.import_sources where user_id = %(user_id)s and source_app = %(source_app)s

-- find_account_options: Returns what an account imports besides what its credential says.
select options from import_pipeline.credentials where account_id = %(account_id)s

-- find_account_states: Returns the active accounts of a source for its sensor: whether one may be asked for now, and
-- its last good run.
select id, user_id, is_held, not_before > now() as is_paused, last_sync_at
from import_pipeline.due_accounts(%(source_app)s)

-- find_accounts: Returns the accounts of a run: those of the given users, or all active ones.
select id, user_id, source_app, coalesce(email, account_email, user_id::text), last_sync_at
from import_pipeline.find_accounts(%(source_app)s, %(user_ids)s::uuid[])
order by last_sync_at nulls first, id

-- find_user: The id of the user with an e-mail address, in any case of ASCII letters; null: nobody has it.
select import_pipeline.find_user(%(email)s)

-- hold_account: Returns the database's time, and keeps an account from being removed until the end of the transaction:
-- the time is null if somebody else has locked its row; no row: it is gone.
with held as materialized (
    select id from public.import_sources where id = %(id)s and user_id = %(user_id)s for key share skip locked
)
select case when exists (select from held) then clock_timestamp() end
from public.import_sources
where id = %(id)s and user_id = %(user_id)s

-- lock_new_users: Let one process at a time create users, until the end of the transaction.
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('import_pipeline.create_user', 0))

-- make_auth_failures_due: Makes what failed for its credential due again, after the account was connected anew.
update public.import_items
set retry_at = now()
where user_id = %(user_id)s and source_app = %(source_app)s and status = 'failed' and error_class = 'auth'

-- move_cursor: Notes how the last run of an account ended; the cursor never moves back, but from where it cannot have
-- been.
update public.import_sources
set last_sync_at = coalesce(
        greatest(import_pipeline.known_cursor(last_sync_at), %(last_sync_at)s::timestamptz), last_sync_at
    ),
    error_message = %(problem)s,
    updated_at = now()
where id = %(id)s and user_id = %(user_id)s

-- name_users: What people call these users; as the importer.
select user_id, label from import_pipeline.name_users(%(user_ids)s::uuid[])

-- open_account: Returns the id of the user's account at a source, opening it on first use.
insert into public.import_sources (user_id, source_app, account_email, is_active)
values (%(user_id)s, %(source_app)s, %(email)s, %(is_active)s)
on conflict (user_id, source_app) do update
set account_email = coalesce(import_sources.account_email, excluded.account_email)
returning id

-- summarise_accounts: Returns one row per account of the user whom the transaction works for, and whose accounts are
-- all that it sees: how it is, for `status`.
select
    source_app, account_email, is_active, last_sync_at, error_message, has_credential,
    imported, waiting, failed, ignored, new_since_yesterday, next_retry_at, next_sync_at,
    last_run_status, last_run_at, last_run_error, progress_current, progress_total
from import_pipeline.account_health(null, array[%(user_id)s::uuid])
where account_id in (select id from public.import_sources)
order by source_app
