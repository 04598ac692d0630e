"""The process of one run, as `run_launcher.py` starts it: Dagster's own command, once everything it needs is loaded.

    python -m import_pipeline.instance.run_process api execute_run …

Nothing is decided here. Dagster would load the same things one after the other, in more time; see `loading.py`.
"""

from contextlib import suppress

from import_pipeline.instance.loading import loading

with loading():
    from dagster._cli import main

    with suppress(Exception):  # what is wrong with them Dagster tells as the run's failure when it loads them itself
        import import_pipeline.definitions  # noqa: F401

if __name__ == "__main__":
    main()  # type: ignore[no-untyped-call]
