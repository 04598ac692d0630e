"""The former place of `instance.run_launcher`, which an owner's `dagster.yaml` may still name."""

from import_pipeline.instance.run_launcher import ProcessRunLauncher

__all__ = ["ProcessRunLauncher"]
