-- Returns the banks of the user that a recording may belong to, each with the vault it would be put into: the given
-- bank, else the one of the given vault, else his personal ones. The vault is the given one if it lies in the bank and
-- he may write there or, when none is given, his personal one in the bank. Last, whether the given one lies in the bank
-- at all.
select
    banks.id,
    case
        when %(vault_id)s::uuid is null then (
            select defaults.vault_id from import_pipeline.default_vaults() as defaults where defaults.bank_id = banks.id
        )
        when given.id = any ((select import_pipeline.enterable_vault_ids())::uuid[]) then given.id
    end,
    given.id is not null
from public.banks
left join public.vaults as given on given.bank_id = banks.id and given.id = %(vault_id)s::uuid
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
