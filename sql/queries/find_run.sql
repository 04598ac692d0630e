-- Returns how one user's run stands.
select
    status, error, progress_current, progress_total, metadata ->> 'source_app' as source_app,
    metadata -> 'counts' as counts,
    case
        when metadata ->> 'without_vault_entry' ~ '^[0-9]{1,9}$' then (metadata ->> 'without_vault_entry')::integer
    end as without_vault_entry,
    metadata ->> 'error_class' as error_class, metadata ->> 'warning' as warning
from public.sync_jobs
where user_id = %(user_id)s and metadata ->> 'run_id' = %(run_id)s
order by created_at desc
limit 1
