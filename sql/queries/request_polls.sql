-- Notes that runs are asked for, and returns of which accounts: of those that nobody else has locked.
select import_pipeline.request_polls(%(account_ids)s::uuid[], %(first_pause)s, %(longest_pause)s)
