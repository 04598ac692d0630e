-- Returns the banks of which a user is a member.
select bank_id from public.bank_memberships where user_id = %(user_id)s
