-- Returns items of a source that wait since before a time, with the number of all of them.
select total, label, external_id, title, waiting_since, retry_at, reason
from import_pipeline.overdue_items(%(source_app)s, now() - make_interval(secs => %(seconds)s), %(limit)s)
