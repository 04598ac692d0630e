-- Returns the bank of a vault if the user is a member of it.
select vaults.bank_id
from public.vaults
join public.bank_memberships on bank_memberships.bank_id = vaults.bank_id
where vaults.id = %(vault_id)s and bank_memberships.user_id = %(user_id)s
limit 1
