-- Gives back what a run holds of an account.
delete from import_pipeline.leases where account_id = %(account_id)s and holder = %(holder)s
