-- Notes that a run of an account which a sensor or schedule asked for broke off: the pause counts from now.
update import_pipeline.polls as poll
set not_before = now() + make_interval(
    secs => least(%(first_pause)s * 2 ^ (least(greatest(poll.attempts, 1), 20) - 1), %(longest_pause)s)
)
where account_id = %(account_id)s and requested_at is not null
