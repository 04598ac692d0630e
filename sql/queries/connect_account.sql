-- Makes an account active and notes who it is at the source and what the credential may not do. If it is somebody else
-- than before, or imports something else, its history is listed again; returns whether.
with earlier as (
    select
        id,
        last_sync_at,
        is_another
            or lower(account_email::text collate "C") <> lower(%(account_email)s::text collate "C") as begins_anew
    from public.import_sources, (select %(is_another)s::boolean as is_another) as given
    where id = %(id)s and user_id = %(user_id)s
)
update public.import_sources as source
set is_active = true,
    account_email = coalesce(%(account_email)s, source.account_email),
    error_message = %(problem)s,
    last_sync_at = case when earlier.begins_anew then null else source.last_sync_at end,
    updated_at = now()
from earlier
where source.id = earlier.id and source.user_id = %(user_id)s
returning coalesce(earlier.begins_anew, false) and earlier.last_sync_at is not null
