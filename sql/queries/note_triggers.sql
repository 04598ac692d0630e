-- Notes in the newest row of the history which triggers are there now.
update import_pipeline.schema_migrations
set objects = jsonb_set(objects, '{triggers}', %(triggers)s)
where version = (
        select version from import_pipeline.schema_migrations order by applied_at desc, version desc limit 1
    )
    and objects -> 'triggers' is distinct from %(triggers)s
