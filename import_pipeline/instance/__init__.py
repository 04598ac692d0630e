"""The Dagster instance: its home, its `dagster.yaml`, and how a run gets a process of its own.

Nothing of what runs: that is in `defs/` and `stages/`. Knows `definitions`, since a run's process loads them, and
`database/` for the instance's storage.
"""
