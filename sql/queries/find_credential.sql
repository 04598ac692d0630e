-- Returns the encrypted credential of an account.
select secret from import_pipeline.credentials where account_id = %(account_id)s
