-- Returns the first ids that one run of one account imported or failed, for the legacy arrays of sync_jobs.
select external_id, status
from public.import_items
where user_id = %(user_id)s and source_app = %(source_app)s and run_id = %(run_id)s and status in ('imported', 'failed')
order by external_id
limit 10000
