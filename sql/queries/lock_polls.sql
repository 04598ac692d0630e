-- Let one process at a time ask for runs; who closes a run need not wait for it.
lock table import_pipeline.polls in share update exclusive mode
