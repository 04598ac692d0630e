-- Let one process at a time create users, until the end of the transaction.
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('import_pipeline.create_user', 0))
