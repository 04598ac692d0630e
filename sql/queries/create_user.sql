-- Creates a user with a personal bank and vault, on the embedded database, and returns the id.
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
