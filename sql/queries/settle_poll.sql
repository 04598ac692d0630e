-- Notes that a run of an account went well, and when to look for something new.
insert into import_pipeline.polls (account_id, due_at)
select id, %(opened_at)s::timestamptz + make_interval(secs => %(interval_seconds)s)
from public.import_sources
where id = %(account_id)s
on conflict (account_id) do update
set attempts = 0, requested_at = null, not_before = null, due_at = excluded.due_at
