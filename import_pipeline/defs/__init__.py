"""Everything that Dagster loads besides the ops: jobs, schedules, sensors, assets, checks, repairs, retention.

Each module builds definitions for the connectors it is given; `definitions` puts them together. What they find out and
write is decided in `library/` and `stages/`. Knows those and everything below, never `instance/` or `cli/`.
"""
