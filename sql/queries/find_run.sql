-- Returns how one user's run stands.
select
    status, error, progress_current, progress_total, metadata ->> 'source_app' as source_app,
    metadata -> 'counts' as counts, (metadata ->> 'without_vault_entry')::integer as without_vault_entry,
    metadata ->> 'error_class' as error_class, metadata ->> 'warning' as warning
from public.sync_jobs
where user_id = %(user_id)s and metadata ->> 'run_id' = %(run_id)s
order by created_at desc
limit 1
