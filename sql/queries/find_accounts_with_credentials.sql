-- Returns the accounts that have a credential, each with its user, in the order in which they are locked.
select account_id, user_id from import_pipeline.accounts_with_credentials() order by account_id
