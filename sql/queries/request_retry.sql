-- Makes items due at once and returns them: failed and waiting ones, and ignored ones only when they are named.
update public.import_items
set retry_at = now(),
    status = case when status = 'ignored' or (status = 'imported' and recording_id is null) then 'waiting' else status end
where user_id = %(user_id)s
    and (%(source_app)s::text is null or source_app = %(source_app)s)
    and case
        when %(external_ids)s::text[] is null then status = 'failed'
        else external_id = any(%(external_ids)s::text[])
            and (status in ('failed', 'waiting', 'ignored') or (status = 'imported' and recording_id is null))
    end
returning source_app, external_id, location, started_at
