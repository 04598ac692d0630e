-- Replaces the encrypted credential of an account.
update import_pipeline.credentials set secret = %(secret)s, updated_at = now() where account_id = %(account_id)s
