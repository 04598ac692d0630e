-- Give the recording that is kept what only its copies have: assignments from fill_gap.
update public.recordings as m set {} where m.id = %(kept)s
