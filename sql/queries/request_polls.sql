-- Notes that runs are asked for; until each comes to its end it is asked for again only after a growing pause.
insert into import_pipeline.polls as poll (account_id, attempts, requested_at, not_before)
select asked.id, 1, now(), now() + make_interval(secs => %(first_pause)s)
from unnest(%(account_ids)s::uuid[]) as asked (id)
on conflict (account_id) do update
set attempts = poll.attempts + 1,
    requested_at = excluded.requested_at,
    not_before = now() + make_interval(secs => least(%(first_pause)s * 2 ^ least(poll.attempts, 20), %(longest_pause)s))
