-- Deletes the credential of an account; returns its id if there was one.
delete from import_pipeline.credentials where account_id = %(account_id)s returning account_id
