-- Notes that all files of a request were worked through.
update import_pipeline.dropped_files
set is_settled = true
where account_id = %(account_id)s and request = %(request)s and not is_settled
