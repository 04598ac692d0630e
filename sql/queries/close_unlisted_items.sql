-- Gives up items that were due when a run began, and that its complete listing did not bring; returns how many.
with closed as (
    update public.import_items
    set status = 'failed',
        error_class = 'permanent',
        error_message = concat_ws(' ', 'The source no longer lists it.', error_message),
        retry_at = null,
        updated_at = now()
    where user_id = %(user_id)s
        and source_app = %(source_app)s
        and status in ('waiting', 'failed')
        and retry_at <= %(opened_at)s
        and updated_at < %(opened_at)s
        and coalesce(started_at, first_seen_at) < %(opened_at)s - make_interval(secs => %(deadline_seconds)s)
    returning 1
)
select count(*) from closed
