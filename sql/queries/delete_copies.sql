-- Delete recordings that nothing refers to any more; as the owner of the tables.
delete from public.recordings where id = any(%(copy_ids)s)
