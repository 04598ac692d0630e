-- Returns which files of an account's drop folder were asked for, in which request, and whether it was worked through.
select version, request, is_settled from import_pipeline.dropped_files where account_id = %(account_id)s
