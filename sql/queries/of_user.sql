-- Part: the rows of a user.
user_id = %(user_id)s
