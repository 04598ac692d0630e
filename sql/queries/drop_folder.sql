-- find_dropped_files: Returns which files of an account's drop folder were asked for, in which request, and whether it
-- was worked through.
select version, request, is_settled from import_pipeline.dropped_files where account_id = %(account_id)s

-- find_shared_folders: Returns the folders that other people fill or once filled: path, and whether it was the drop
-- folder.
select path, is_dropped from import_pipeline.shared_folders order by path, is_dropped

-- forget_dropped_files: Forgets files: those of a request that came to nothing, which are to be asked for again, and
-- those that are gone.
delete from import_pipeline.dropped_files
where account_id = %(account_id)s
    and (version = any(%(gone)s::uuid[]) or (request = %(request)s::text and not is_settled))

-- note_shared_folder: Remembers a folder that other people fill.
insert into import_pipeline.shared_folders (path, is_dropped)
values (%(path)s, %(is_dropped)s)
on conflict on constraint shared_folders_pkey do nothing

-- request_dropped_files: Notes that files are asked for, and returns nothing.
insert into import_pipeline.dropped_files (account_id, version, request)
select %(account_id)s, version, %(request)s from unnest(%(versions)s::uuid[]) as asked (version)

-- settle_dropped_files: Notes that all files of a request were worked through.
update import_pipeline.dropped_files
set is_settled = true
where account_id = %(account_id)s and request = %(request)s and not is_settled
