-- Returns the banks of the user that a recording may belong to, each with the vault it would be put into: the given bank,
-- else the one of the given vault, else his personal ones. The vault is the given one if it lies in the bank or, when
-- none is given, the bank's personal vault (of several, always the same one).
select
    banks.id,
    (
        select vaults.id
        from public.vaults
        where vaults.bank_id = banks.id
            and case
                when %(vault_id)s::uuid is null then vaults.vault_type = 'personal'
                else vaults.id = %(vault_id)s::uuid
            end
        order by vaults.id
        limit 1
    )
from public.banks
where exists (
        select
        from public.bank_memberships
        where bank_memberships.bank_id = banks.id and bank_memberships.user_id = %(user_id)s
    )
    and case
        when %(bank_id)s::uuid is not null then banks.id = %(bank_id)s::uuid
        when %(vault_id)s::uuid is not null then
            banks.id = (select vaults.bank_id from public.vaults where vaults.id = %(vault_id)s::uuid)
        else banks.type = 'personal'
    end
