-- Returns which of these root runs hold an account at the moment.
select distinct holder from import_pipeline.leases where holder = any(%(run_ids)s) and expires_at > now()
