-- Returns the personal banks the user is a member of; an import needs exactly one.
select banks.id
from public.bank_memberships
join public.banks on banks.id = bank_memberships.bank_id
where bank_memberships.user_id = %(user_id)s and banks.type = 'personal'
group by banks.id
