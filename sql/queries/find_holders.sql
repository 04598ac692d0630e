-- Returns which of these root runs hold an account at the moment, and in which processes.
select distinct holder, holder_process from import_pipeline.leases where holder = any(%(run_ids)s) and expires_at > now()
