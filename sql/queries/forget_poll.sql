-- Makes an account due at once.
delete from import_pipeline.polls where account_id = %(account_id)s
