"""The Dagster instance: where its home is and where it keeps runs, events and schedules.

One instance for the command line and for `dev`, so that what the one ran is seen in the other. A `DAGSTER_HOME` that
is set belongs to its owner and is left alone. No Dagster import here: it only prepares files and the environment.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from import_pipeline.database.embedded import home
from import_pipeline.database.opening import Database

DAGSTER_URL = "IMPORT_PIPELINE_DAGSTER_URL"
_DATABASE_NAME = "dagster"

_HEADER = "# Written by import-pipeline at every start; set DAGSTER_HOME to use a dagster.yaml of your own.\n"
_POSTGRES_STORAGE = """\
storage:
  postgres:
    postgres_url:
      env: IMPORT_PIPELINE_DAGSTER_URL
"""


def prepare_instance(database: Database) -> Path:
    """Make the instance usable for this process and its children: `DAGSTER_HOME`, `dagster.yaml`, storage address.

    Dagster's storage is a database of its own on the embedded server. On a server of the owner's nothing is created
    unasked: there `IMPORT_PIPELINE_DAGSTER_URL` names a database for it; or files in the instance's folder serve.

    Returns:
        The instance's folder.
    """
    if os.environ.get("DAGSTER_HOME"):
        return Path(os.environ["DAGSTER_HOME"])
    folder = home() / "dagster"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = _HEADER + settings()
    if database.server is not None and not os.environ.get(DAGSTER_URL):
        database.server.ensure_database(_DATABASE_NAME)
        os.environ[DAGSTER_URL] = database.server.url(_DATABASE_NAME)
    if os.environ.get(DAGSTER_URL):
        os.environ[DAGSTER_URL] = with_psycopg2(os.environ[DAGSTER_URL])
        text += _POSTGRES_STORAGE
    _write_if_changed(folder / "dagster.yaml", text)
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def settings() -> str:
    """Return the settings of every instance of ours, all but its storage, as YAML."""
    return (resources.files(__package__) / "dagster.yaml").read_text(encoding="utf-8")


def with_psycopg2(url: str) -> str:
    """Name the driver in a storage address.

    Newer SQLAlchemy takes a plain `postgresql://` for psycopg 3, with which dagster-postgres fails at `NOTIFY … $1`.
    """
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg2{separator}{rest}" if scheme in ("postgres", "postgresql") else url


def _write_if_changed(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
