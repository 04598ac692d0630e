-- find_accounts_with_credentials: Returns the accounts that have a credential, each with its user, in the order in
-- which they are locked.
select account_id, user_id from import_pipeline.accounts_with_credentials() order by account_id

-- find_credential: Returns the encrypted credential of an account.
select secret from import_pipeline.credentials where account_id = %(account_id)s

-- forget_credential: Deletes the credential of an account; returns its id if there was one.
delete from import_pipeline.credentials where account_id = %(account_id)s returning account_id

-- lock_credential: Returns the encrypted credential of an account, and makes others who would renew it wait.
select secret from import_pipeline.credentials where account_id = %(account_id)s for update

-- renew_credential: Replaces the encrypted credential of an account.
update import_pipeline.credentials set secret = %(secret)s, updated_at = now() where account_id = %(account_id)s

-- store_credential: Keeps the credential of an account and its options, in place of earlier ones.
insert into import_pipeline.credentials as credential (account_id, secret, options)
values (%(account_id)s, %(secret)s, %(options)s)
on conflict (account_id) do update
set secret = excluded.secret, options = excluded.options, updated_at = now()
