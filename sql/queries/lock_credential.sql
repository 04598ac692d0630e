-- Returns the encrypted credential of an account, and makes others who would renew it wait.
select secret from import_pipeline.credentials where account_id = %(account_id)s for update
