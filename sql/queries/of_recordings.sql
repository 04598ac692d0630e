-- Part: the rows of the recordings of a user.
recording_id in (select id from public.recordings where owner_user_id = %(user_id)s)
