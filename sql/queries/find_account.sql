-- Returns the id of the user's account at a source.
select id from public.import_sources where user_id = %(user_id)s and source_app = %(source_app)s
