"""Whatever a title, a name or an error holds, it is shown as what it is, and steers nobody who looks at it."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
import pytest
import tenants
from commands import Shell
from connectors.demo import Demo
from hostile.attacks import MARKUP, NASTY, STEERING, is_harmless, nasty_text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from world import World, calls

from import_pipeline.cli.output import printable
from import_pipeline.defs import assets
from import_pipeline.defs.assets.charts import draw_months
from import_pipeline.defs.assets.figures import OTHER_SOURCES, read_import_counts, read_months
from import_pipeline.defs.sensors.alerts import _as_text, describe_failure
from import_pipeline.defs.tables import to_markdown
from import_pipeline.errors import ItemError, NotReadyError
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.normalise import LONGEST_LOCATION, LONGEST_TITLE, normalise_item, normalise_record
from import_pipeline.records import ConnectorRecord, ListedItem

QUICK = settings(max_examples=150, deadline=None)
STORABLE = [text for text in (*NASTY, "x" * 20_000) if "\0" not in text and not re.search("[\ud800-\udfff]", text)]
OWN_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}


# --- tables in the UI ---------------------------------------------------------------------------------------------


def cells_of(markdown: str) -> list[list[str]]:
    """Render a table as the UI does, refuse anything but plain text in it, and return its cells."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    assert {token.tag for token in tokens if token.type != "inline"} <= OWN_TAGS
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special"}, markdown
            rows[-1].append("".join(child.content for child in children))
    return rows


@QUICK
@given(st.lists(nasty_text, min_size=3, max_size=9))
@example(list(NASTY))
def test_a_cell_of_a_table_shows_its_text_and_nothing_else(texts: list[str]) -> None:
    rows = cells_of(to_markdown(["A", texts[0]], [(text, "end") for text in texts]))
    assert len(rows) == len(texts) + 1
    assert all(len(row) == 2 for row in rows)
    assert [row[1] for row in rows[1:]] == ["end"] * len(texts)
    for text, (cell, _) in zip(texts, rows[1:], strict=True):
        assert is_harmless(cell)
        assert "\n" not in cell
        shown = "".join(char for char in " ".join(text.split())[:200] if char.isprintable())
        assert re.sub(r"[\s\ufffd]", "", cell).startswith(re.sub(r"\s", "", shown)[:150])


# --- the chart, and sources that anybody may name ------------------------------------------------------------------


@pytest.fixture
def library(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Recordings whose sources are called what nobody would call them, and of some there are very many."""
    user = tenants.make_user(conn, "ana@example.com")
    names = [*STORABLE, "users", "counts", "dagster/row_count", "_hidden", "$", "$x", *(f"s{n}" for n in range(60))]
    with conn.cursor() as cursor:
        for number, name in enumerate(names):
            for _ in range(1 + (number < 30)):
                cursor.execute(
                    "insert into recordings (bank_id, owner_user_id, title, full_transcript, source_app, "
                    "recording_start_time) values (%s, %s, %s, 'a', %s, now())",
                    (user.bank_id, user.id, name[:200], name),
                )
    conn.commit()
    return conn


def test_sources_of_any_name_and_number_spoil_no_overview(library: psycopg.Connection[Any]) -> None:
    counts = read_import_counts(library)
    months, undated = read_months(library, datetime(2020, 1, 1, tzinfo=UTC))
    assert len(counts.columns) <= 21
    assert OTHER_SOURCES in counts.columns
    assert all(is_harmless(name) and len(name) <= 201 for name in (*counts.columns, *months.columns))
    described = assets._describe_counts(counts, counts, {})
    assert cells_of(described["counts"].value)
    assert described["users"] == 1
    assert described["dagster/row_count"] == int(counts.to_numpy().sum())
    assert cells_of(assets._describe_months(months, undated)["recordings per month"].value)


@pytest.mark.filterwarnings("ignore:Glyph")  # the font lacks some, and draws a box
@pytest.mark.parametrize(
    "name", [*STORABLE, "_x", "$", "$\\frac{1}{0$", "", "nolegend_"], ids=lambda name: repr(name)[:30]
)
def test_any_name_can_be_drawn(name: str) -> None:
    assert draw_months(pd.DataFrame({name: [1, 2]}, index=["2026-01", "2026-02"]), "Title").startswith("![Title](data:")


# --- what is kept -------------------------------------------------------------------------------------------------


def test_a_title_is_cut_and_half_an_address_is_none() -> None:
    long = "word " * 10_000_000
    item = normalise_item(ListedItem("a", long, datetime(2026, 1, 1, tzinfo=UTC), "https://a.example/" + long))
    assert item.title is not None
    assert len(item.title) == LONGEST_TITLE
    assert item.location is None
    assert normalise_item(ListedItem("a", location="/" + "a" * (LONGEST_LOCATION - 1))).location is not None
    record = normalise_record(ConnectorRecord("a", "demo", long, "said", "2026-01-01T00:00:00Z"))
    assert len(record.title) <= LONGEST_TITLE
    assert record.source_metadata["import_notes"] == {"title": "cut off after 1,000 characters"}
    assert normalise_record(record) == record


def test_what_is_listed_counts_for_the_size_of_its_batch() -> None:
    """Else two hundred items with ten megabytes of details each would be in memory at once (F78)."""
    item = normalise_item(ListedItem("a", details={"a": ["x" * 1_000_000, {"b": "y" * 1_000_000}]}, size_bytes=5))
    assert item.size_bytes >= 2_000_000


# --- the terminal -------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(shell: Shell, database_url: str, tmp_path: Path) -> Shell:
    shell.set(DATABASE_URL=database_url, IMPORT_PIPELINE_HOME=str(tmp_path), DAGSTER_HOME=str(tmp_path / "dagster"))
    return shell


@pytest.fixture
def evil_user(conn: psycopg.Connection[Any]) -> str:
    """A user with a failed, a waiting, an ignored and an imported item of every nasty text, in every column."""
    user = tenants.make_user(conn, "ana@example.com")
    account = ensure_account(conn, user.id, "zoom", "evil\x1b[2J\u202e@example.com")
    statuses = ("failed", "waiting", "ignored", "imported")
    for number, text in enumerate(STORABLE):
        conn.execute(
            "insert into import_items (user_id, source_app, external_id, status, title, location, error_class, "
            "error_message, request_id, attempts) values (%s, 'zoom', %s, %s, %s, %s, %s, %s, %s, 1)",
            (user.id, f"{number} {text}"[:400], statuses[number % 4], text, text,
             "data" if number % 4 == 0 else None, text, text[:100]),
        )  # fmt: skip
        conn.execute(
            "insert into recordings (bank_id, owner_user_id, title, full_transcript, source_app, source_metadata, "
            "recording_start_time) values (%s, %s, %s, 'a', %s, jsonb_build_object('external_id', %s::text), now())",
            (user.bank_id, user.id, text, text, f"recording {number}"),
        )
    conn.execute("update import_sources set error_message = %s where id = %s", ("\n".join(STEERING), account))
    conn.commit()
    return user.email


COMMANDS = [
    ["failures"], ["failures", "--json"], ["counts"], ["counts", "--json"], ["status"], ["status", "--json"],
    ["why", "recording 1"], ["why", "recording 5", "--json"], ["why", "no\x1b[2Jsuch\u202e"], 
    ["retry", "--id", "x\x1b[2J"],
    ["sources"], ["migrate", "--check"], ["upload", "/no/such\x1b[2J\u202e"], ["sync", "zo\x1b[2Jom"], ["\x1b[2J"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_lets_a_text_steer_the_terminal(shell: Shell, evil_user: str, command: list[str]) -> None:
    named = command[0] in ("failures", "counts", "status", "why", "retry")
    outcome = shell.run(*command, *(["--user", evil_user] if named else []))
    for text in (outcome.stdout, outcome.stderr):
        assert is_harmless(text), [line for line in text.splitlines() if not is_harmless(line)][:3]
    if "--json" in command:
        assert outcome.json


def test_every_explanation_is_harmless_and_json_keeps_every_character(
    shell: Shell, evil_user: str, conn: psycopg.Connection[Any]
) -> None:
    stored = {key: title for key, title in conn.execute("select external_id, title from import_items").fetchall()}
    found = {row["external_id"]: row["title"] for row in shell.run("failures", "--user", evil_user, "--json").json}
    assert found.items() <= stored.items()
    assert len(found) == -(-len(STORABLE) // 4)
    for external_id in list(stored)[:12]:
        assert is_harmless(shell.run("why", "--user", evil_user, "--", external_id).stdout)


@QUICK
@given(nasty_text)
def test_what_is_printable_is_harmless(text: str) -> None:
    assert is_harmless(printable(text))
    assert len(printable(text)) == len(text)


# --- runs: events, logs, alerts -----------------------------------------------------------------------------------


@pytest.fixture
def red(world: World, caplog: pytest.LogCaptureFixture) -> dg.ExecuteInProcessResult:
    """A run in which every call but one failed, waits or broke, for a user and for reasons that steer."""
    caplog.set_level(logging.DEBUG)
    source = Demo(calls(len(STORABLE) + 1))
    world.account("evil\x1b[2J\r\nERROR forged\u202e@example.com")
    for number, text in enumerate(STORABLE):
        call = source.calls[None][number]
        call.values["title"] = text
        call.error = [ItemError(text), NotReadyError(text), RuntimeError(text)][number % 3]
    return world.run(source)


def test_no_text_of_a_run_steers_who_reads_its_events_or_its_log(
    world: World, red: dg.ExecuteInProcessResult, caplog: pytest.LogCaptureFixture
) -> None:
    assert "imported" in world.statuses().values()
    for entry in world.instance.all_logs(red.run_id):
        if entry.dagster_event is None or not entry.dagster_event.is_step_failure:  # there Dagster adds a stack
            assert is_harmless(entry.user_message.replace("\t", " "))
    for record in caplog.records:
        if record.name.startswith("import_pipeline"):
            assert is_harmless(record.getMessage())
    for _, _, message in world.ledger().values():
        assert message is None or (is_harmless(message) and "\n" not in message)


def test_an_alert_calls_nobody_leads_nowhere_and_shows_no_picture(world: World, red: dg.ExecuteInProcessResult) -> None:
    run = world.instance.get_run_by_id(red.run_id)
    assert run is not None
    message = describe_failure(run, [event for event in red.all_events if event.is_step_failure])
    for number, text in enumerate(MARKUP):
        message["failed_items"].append({"item": text, "reason": STORABLE[number]})
    text = _as_text({**message, "run_url": "https://ui.example/runs/1"})
    assert text.endswith("\nhttps://ui.example/runs/1"), "Ours stays a link."
    foreign = text.removesuffix("https://ui.example/runs/1")
    assert not re.search(r"(?<!\w)@(channel|all|here|everyone|\w)", foreign)
    assert not re.search(r"[<>]|\]\(|\]\[|!\[|://|www\.|``|~~", foreign)
    assert json.loads(json.dumps(message)) == message
