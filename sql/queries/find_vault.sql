-- Returns the given vault if it lies in the bank or, when none is given, the bank's personal vault (of several, always
-- the same one).
select id
from public.vaults
where bank_id = %(bank_id)s
    and case when %(vault_id)s::uuid is null then vault_type = 'personal' else id = %(vault_id)s::uuid end
order by id
limit 1
