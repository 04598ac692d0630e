-- Forgets files: those of a request that came to nothing, which are to be asked for again, and those that are gone.
delete from import_pipeline.dropped_files
where account_id = %(account_id)s
    and (version = any(%(gone)s::uuid[]) or (request = %(request)s::text and not is_settled))
