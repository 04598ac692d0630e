-- The id of the user with an e-mail address, in any case of ASCII letters; null: nobody has it.
select import_pipeline.find_user(%(email)s)
