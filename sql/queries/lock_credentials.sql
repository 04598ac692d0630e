-- Returns every credential, and makes others who would renew them wait.
select account_id, secret from import_pipeline.credentials order by account_id for update
