-- Delete a user; as the owner of auth.users.
delete from auth.users where id = %(user_id)s
