"""The state of the call library: what is known, what is due, whose account it is, who works on it now.

The ledger, accounts, leases, sync jobs, polls, destinations, duplicates, personal data, the drop folder. Plain
functions on a connection; no Dagster. Knows `connectors/` and everything below; the SQL is in `sql/queries/`.
"""
