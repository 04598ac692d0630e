-- Notes that a run of an account had a problem: it is due, but not before a pause that grows.
insert into import_pipeline.polls as poll (account_id, attempts, not_before, due_at)
select id, 1, now() + make_interval(secs => greatest(%(first_pause)s, %(shortest_pause)s)), now()
from public.import_sources
where id = %(account_id)s
on conflict (account_id) do update
set attempts = greatest(poll.attempts, 1),
    requested_at = null,
    not_before = now() + make_interval(
        secs => greatest(
            least(%(first_pause)s * 2 ^ (least(greatest(poll.attempts, 1), 20) - 1), %(longest_pause)s),
            %(shortest_pause)s
        )
    ),
    due_at = now()
