-- Notes the ids of one account's run; the placeholders' element types follow the installation's columns.
update public.sync_jobs
set recording_ids = %(recording_ids)s::{recording_ids},
    synced_ids = %(synced_ids)s::{synced_ids},
    failed_ids = %(failed_ids)s::{failed_ids}
where id = (
    select id from public.sync_jobs where id = %(id)s and user_id = %(user_id)s for no key update skip locked
)
