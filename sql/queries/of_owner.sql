-- Part: the recordings of a user.
owner_user_id = %(user_id)s
