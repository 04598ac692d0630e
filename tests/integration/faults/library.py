"""A library that meets faults: whole import jobs on it, what they said, and what must hold after one more run.

One function, `check_settled`, asserts all that must hold, and returns the numbers for the table. Not here: how a fault
is made (the tests, `tests/proxy.py`, `tests/servers.py`) and how the table is written (`tests/fault_table.py`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from world import World

from import_pipeline import errors
from import_pipeline.cli.run_job import _causes
from import_pipeline.library.accounts import ensure_account
from import_pipeline.providers.credentials import store_credential
from import_pipeline.providers.keys import Secrets, open_key_ring

EMAIL = "ana@example.com"
CALLS = 20
BATCH = 5
FEW = 6
SMALL_BATCH = 2
SECRETS = ("fathom-test-key", "s3cr3t-password")
GREEN = "it was green: it found another connection"
MOMENTS = {
    "while transcripts are fetched": "import_pipeline.stages.transform.transform_item",
    "inside the transaction": "import_pipeline.stages.new_calls.send_outcomes",
    "before recordings are sent": "import_pipeline.stages.new_calls._send_rows",
}
"""What is called at which moment: the fault comes just before one of the calls."""


@dataclass(frozen=True)
class Numbers:
    """What was found after one more run.

    Attributes:
        expected: Calls at the source.
        found: Recordings.
        duplicates: Recordings beyond the first of an external id.
        without_vault: Recordings without vault entry.
        ledger_mismatches: Recordings without a ledger row, and rows that are not imported or have no recording.
        open_jobs: `sync_jobs` rows that say somebody is working.
        leases: Leases that are left.
        staged: Staged files with transcripts that are left.
    """

    expected: int
    found: int
    duplicates: int
    without_vault: int
    ledger_mismatches: int
    open_jobs: int
    leases: int
    staged: int


@dataclass
class Library:
    """A database of its own on a server that a test may mistreat, with a user and a folder for staged files.

    Attributes:
        owner_url: Its address as superuser.
        world: Its runs; they log in as `importer`, who is nothing but a member of `import_worker`.
        user: The one whose calls are imported.
        write: Writes a row of the table.
    """

    owner_url: str
    world: World
    user: tenants.User
    write: Callable[..., None]
    began_at: float = field(default_factory=time.monotonic)

    def connect(self, source_app: str) -> None:
        """Open the account at a source, with a credential where it needs one."""
        with psycopg.connect(self.owner_url, autocommit=True) as conn:
            account_id = ensure_account(conn, self.user.id, source_app, EMAIL)
            if source_app == "fathom":
                secrets = Secrets("api-key", {"api_key": SECRETS[0]})
                store_credential(conn, open_key_ring(is_embedded=False), account_id, self.user.id, secrets, {})

    def run(self, connector: Any, **options: Any) -> dg.ExecuteInProcessResult:
        config = {"users": [EMAIL], **({"options": options} if options else {})}
        return self.world.run(connector, **config)

    def check(
        self,
        fault: str,
        moment: str,
        said: str,
        connector: Any,
        external_ids: Sequence[str] | int,
        **options: Any,
    ) -> Numbers:
        """Run once more, assert that everything is there once and settled, and write it into the table."""
        began_at = time.monotonic()
        result = self.run(connector, **options)
        assert result.success, tell(result)
        self.world.settle()
        numbers = check_settled(self.owner_url, external_ids, self.world.staging)
        self.write(fault, moment, said, numbers, time.monotonic() - began_at)
        return numbers


def check_settled(url: str, external_ids: Sequence[str] | int, staging: Path | None = None) -> Numbers:
    """Assert that a library holds these calls once each and that nothing is left open.

    Args:
        url: The database, as superuser.
        external_ids: What it must hold, or how many.
        staging: The folder of staged files.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        stored = [key for (key,) in conn.execute("select source_metadata ->> 'external_id' from public.recordings")]
        row = conn.execute(
            """
            select
              (select count(*) from public.recordings r
                where not exists (select from public.vault_entries e where e.recording_id = r.id)),
              (select count(*) from public.recordings r
                where not exists (select from public.import_items i where i.recording_id = r.id))
              + (select count(*) from public.import_items where status <> 'imported' or recording_id is null),
              (select count(*) from public.sync_jobs where status = 'processing'),
              (select count(*) from import_pipeline.leases)
            """
        ).fetchone()
    assert row is not None
    left = [path for path in staging.rglob("*.sealed*") if path.is_file()] if staging else []
    staged = [path for path in left if re.search(r"(dedup|transform)\[", str(path))]
    expected = external_ids if isinstance(external_ids, int) else len(external_ids)
    numbers = Numbers(expected, len(stored), len(stored) - len(set(stored)), *row, len(staged))
    assert numbers == Numbers(expected, expected, 0, 0, 0, 0, 0, 0), numbers
    if not isinstance(external_ids, int):
        assert set(stored) == set(external_ids)
    return numbers


def tell(result: dg.ExecuteInProcessResult) -> str:
    """Return what a red run says: each error of ours that broke a step, else the innermost, with its class."""
    events = [event for event in result.all_events if event.is_step_failure or event.is_run_failure]
    causes = [cause for event in events for cause in _causes(event)]
    ours = [cause for cause in causes if hasattr(errors, cause[0])]
    return "; ".join(dict.fromkeys(map(": ".join, ours or causes[-1:]))) or GREEN


def check_told(library: Library, result: dg.ExecuteInProcessResult, words: str, expected: Sequence[str] | int) -> str:
    """Assert that a run that met a fault says what it met in words for people, and gives nothing away.

    It is red, or the fault did it no harm: then everything is there.
    """
    said = tell(result)
    if result.success:
        check_settled(library.owner_url, expected, library.world.staging)
        return said
    assert re.search(words, said), said
    assert {part.partition(":")[0] for part in said.split("; ") if "Error: " in part} == {"DatabaseUnavailableError"}
    for event in result.all_events:
        for secret in SECRETS:
            assert secret not in str(event)
    return said


def at(monkeypatch: pytest.MonkeyPatch, moment: str, fault: Callable[[], object], *, call: int) -> Callable[[], bool]:
    """Let a fault come once, just before the numbered call of what marks a moment; return what says if it came."""
    module_name, _, name = MOMENTS[moment].rpartition(".")
    module = import_module(module_name)
    real = getattr(module, name)
    calls = 0

    def call_after_the_fault(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            fault()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, call_after_the_fault)
    return lambda: calls >= call
