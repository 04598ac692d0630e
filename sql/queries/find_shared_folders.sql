-- Returns the folders that other people fill or once filled: path, and whether it was the drop folder.
select path, is_dropped from import_pipeline.shared_folders order by path, is_dropped
