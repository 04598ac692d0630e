-- What people call these users; as the importer.
select user_id, label from import_pipeline.name_users(%(user_ids)s::uuid[])
