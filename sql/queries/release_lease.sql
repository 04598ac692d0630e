-- Gives the lease of an account back, if it is still the holder's.
delete from import_pipeline.leases where account_id = %(account_id)s and holder = %(holder)s
