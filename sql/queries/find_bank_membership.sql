-- Returns the bank if the user is a member of it.
select bank_id
from public.bank_memberships
where user_id = %(user_id)s and bank_id = %(bank_id)s
limit 1
