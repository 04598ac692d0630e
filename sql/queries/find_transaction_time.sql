-- When the transaction began, by the clock of the database.
select pg_catalog.now()
