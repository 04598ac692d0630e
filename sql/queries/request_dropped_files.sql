-- Notes that files are asked for, and returns nothing.
insert into import_pipeline.dropped_files (account_id, version, request)
select %(account_id)s, version, %(request)s from unnest(%(versions)s::uuid[]) as asked (version)
