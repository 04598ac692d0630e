-- Remembers a folder that other people fill.
insert into import_pipeline.shared_folders (path, is_dropped)
values (%(path)s, %(is_dropped)s)
on conflict on constraint shared_folders_pkey do nothing
