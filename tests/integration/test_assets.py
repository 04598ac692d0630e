"""The assets: what they show of a library, and that they refresh by themselves after imports."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from connectors.demo import Call, Demo, OtherDemo
from psycopg.types.json import Jsonb

from import_pipeline.connectors.base import Connector, discover_connectors
from import_pipeline.definitions import build_defs
from import_pipeline.defs.assets.figures import NO_SOURCE, read_health, read_import_counts, read_months
from import_pipeline.defs.tables import show_time, to_markdown
from import_pipeline.library.accounts import ensure_account
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.staging import StreamIOManager

Connection = psycopg.Connection[Any]
NOW = datetime.now(UTC)


def add_recordings(
    conn: Connection,
    owner: tenants.User,
    source_app: str | None,
    started: Iterable[datetime | None],
    prefix: str = "call",
) -> None:
    for position, started_at in enumerate(started):
        conn.execute(
            "insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata, recording_start_time)"
            " values (%s, %s, 'A call', %s, %s, %s)",
            [owner.bank_id, owner.id, source_app, Jsonb({"external_id": f"{prefix}-{position}"}), started_at],
        )


def add_item(conn: Connection, owner: tenants.User, external_id: str, status: str, **values: Any) -> None:
    columns = {"user_id": owner.id, "source_app": "demo", "external_id": external_id, "status": status} | values
    conn.execute(
        f"insert into import_items ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
        list(columns.values()),
    )


def refresh(
    database_url: str, asset: str, connectors: Iterable[Connector] = ()
) -> tuple[dict[str, Any], dg.ExecuteInProcessResult]:
    """Make an asset as its run does, and return what it tells about itself."""
    defs = build_defs(
        connectors={each.source_app: each for each in connectors or [Demo(), OtherDemo()]},
        postgres=PostgresResource(url=database_url),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(asset)]
        )
    (materialization,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in materialization.metadata.items()}, result


def rows_of(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without its headings."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:] if "|" in line]


# --- tables -------------------------------------------------------------------------------------------------------


def test_a_table_shows_any_text_as_it_is() -> None:
    table = to_markdown(["Title", "Calls"], [("a|b\n*c* <img src=x> `d`\u2028[e](f)", 3), ("x" * 300, 12)])
    lines = table.splitlines()
    assert lines[1] == "| --- | ---: |"
    assert lines[2] == r"| a\|b \*c\* \<img src=x\> \`d\` \[e\](f) | 3 |"
    assert len(lines[3]) < 250
    assert len(lines) == 4


# --- import_counts ------------------------------------------------------------------------------------------------


def test_counts_are_a_frame_of_users_and_sources(conn: Connection, ana: tenants.User, ben: tenants.User) -> None:
    add_recordings(conn, ana, "demo", [NOW] * 3)
    add_recordings(conn, ana, "zoom", [NOW] * 2)
    add_recordings(conn, ben, "zoom", [NOW])
    add_recordings(conn, ben, None, [NOW])
    assert read_import_counts(conn).to_dict("index") == {
        ana.id: {"demo": 3, "zoom": 2, NO_SOURCE: 0},
        ben.id: {"demo": 0, "zoom": 1, NO_SOURCE: 1},
    }


def test_import_counts_shows_users_and_sources_with_totals(
    conn: Connection, database_url: str, ana: tenants.User, ben: tenants.User
) -> None:
    add_recordings(conn, ana, "demo", [NOW] * 3)
    add_recordings(conn, ana, "demo-other", [NOW] * 2)
    add_recordings(conn, ben, "demo-other", [NOW])
    shown, _ = refresh(database_url, "import_counts")
    assert rows_of(shown["counts"]) == [
        ["ana@example.com", "3", "2", "5"],
        ["ben@example.com", "0", "1", "1"],
        ["all users", "3", "3", "6"],
    ]
    assert shown["counts"].splitlines()[0] == "| User | Demo | Other demo | All |"
    assert (shown["dagster/row_count"], shown["users"], shown["Demo"], shown["Other demo"]) == (6, 2, 3, 3)


def test_of_very_many_users_the_largest_are_shown_and_the_totals_are_complete(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    add_recordings(conn, ana, "demo", [NOW] * 3)
    conn.execute("insert into auth.users (id, email) select gen_random_uuid(), 'u' || n from generate_series(1, 150) n")
    conn.execute(
        "insert into recordings (bank_id, owner_user_id, title, source_app, source_metadata)"
        " select %s, id, 'A call', 'demo', jsonb_build_object('external_id', 'x') from auth.users"
        " where email like 'u%%'",
        [ana.bank_id],
    )
    shown, _ = refresh(database_url, "import_counts")
    rows = rows_of(shown["counts"])
    assert rows[0] == ["ana@example.com", "3", "3"]
    assert rows[-2:] == [["51 other users", "51", "51"], ["all users", "153", "153"]]
    assert len(rows) == 102
    assert (shown["users"], shown["dagster/row_count"]) == (151, 153)


def test_an_empty_library_says_so(conn: Connection, database_url: str, ana: tenants.User) -> None:
    shown, _ = refresh(database_url, "import_counts")
    assert shown["counts"] == shown["recordings per month"] == "No recordings yet."
    assert shown["dagster/row_count"] == 0


def test_months_have_no_gaps_and_what_is_older_is_told(conn: Connection, ana: tenants.User) -> None:
    def at(text: str) -> datetime:
        return datetime.fromisoformat(text)

    add_recordings(conn, ana, "demo", [at("2025-02-01T00:30:00+01:00"), at("2025-02-01T00:00:00Z")])
    add_recordings(conn, ana, "zoom", [at("2025-04-30T23:59:59Z"), at("2019-01-01T00:00:00Z"), None])
    conn.execute("update recordings set recording_start_time = '-infinity' where recording_start_time is null")
    add_recordings(conn, ana, "fathom", [None])
    frame, others = read_months(conn, datetime(2025, 1, 1, tzinfo=UTC))
    assert others == 3
    assert frame.to_dict("index") == {
        "2025-01": {"demo": 1, "zoom": 0},
        "2025-02": {"demo": 1, "zoom": 0},
        "2025-03": {"demo": 0, "zoom": 0},
        "2025-04": {"demo": 0, "zoom": 1},
    }


def test_the_last_year_is_a_table_short_enough_to_be_shown_at_once(
    conn: Connection, database_url: str, ana: tenants.User
) -> None:
    """The UI folds away what has more than a thousand characters."""
    this_month = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for source_app, number in (("demo", 40), ("demo-other", 2), ("third", 1), ("fourth", 1)):
        for month in range(20):
            add_recordings(conn, ana, source_app, [this_month - timedelta(days=30 * month)] * number, f"in-{month}")
    shown, _ = refresh(database_url, "import_counts")
    table = shown["recordings per month"]
    rows = rows_of(table)
    assert len(table) < 1000
    assert len(rows) == 12
    assert rows[0] == [f"{NOW:%b\N{NO-BREAK SPACE}%Y}", "40", "2", "1", "1", "██████████\N{NO-BREAK SPACE}44"]


def test_the_chart_is_a_small_picture_in_markdown(conn: Connection, database_url: str, ana: tenants.User) -> None:
    for source_app in ("demo", "demo-other", None, "another"):
        months = (NOW - timedelta(days=30 * month) for month in range(24))
        add_recordings(conn, ana, source_app, months)
    shown, _ = refresh(database_url, "import_counts")
    picture = shown["chart per month"]
    assert picture.startswith("![Recordings per month and source](data:image/png;base64,iVBOR")
    assert len(picture) < 12_000


# --- import_health ------------------------------------------------------------------------------------------------


def test_import_health_shows_every_account_with_its_problem_and_next_sync(
    conn: Connection, database_url: str, ana: tenants.User, ben: tenants.User
) -> None:
    synced, soon = NOW - timedelta(minutes=3), NOW + timedelta(hours=5)
    well = ensure_account(conn, ana.id, "demo", ana.email)
    conn.execute("update import_sources set last_sync_at = %s", [synced])
    conn.execute("insert into import_pipeline.polls (account_id, due_at) values (%s, %s)", [well, soon])
    ensure_account(conn, ben.id, "demo", ben.email)
    conn.execute("update import_sources set error_message = 'It | broke.' where user_id = %s", [ben.id])
    off = ensure_account(conn, ben.id, "demo-other", ben.email)
    conn.execute("update import_sources set is_active = false where id = %s", [off])
    add_item(conn, ana, "a", "imported", run_id="run")
    add_item(conn, ana, "b", "imported", run_id="run", updated_at=NOW - timedelta(days=2))
    add_item(conn, ana, "c", "imported")
    add_item(conn, ana, "d", "waiting", retry_at=NOW + timedelta(days=1))
    add_item(conn, ana, "e", "failed")
    shown, _ = refresh(database_url, "import_health")
    assert rows_of(shown["account list"].replace(r"\|", "¦")) == [
        ["ben@example.com", "Demo", "It ¦ broke.", "0", "0", "0", "never", "due now"],
        ["ana@example.com", "Demo", "", "1", "1", "1", show_time(synced), show_time(soon)],
        ["ben@example.com", "Other demo", "", "0", "0", "0", "never", "switched off"],
    ]
    assert rows_of(shown["sources"]) == [
        ["Demo", "2", "1", "1", "1", "1", show_time(synced)],
        ["Other demo", "1", "0", "0", "0", "0", "never"],
    ]
    assert (shown["accounts"], shown["accounts with a problem"], shown["new in 24 hours"]) == (3, 1, 1)


def test_an_account_that_was_never_connected_says_how(conn: Connection, database_url: str, ana: tenants.User) -> None:
    ensure_account(conn, ana.id, "fathom", ana.email)
    ensure_account(conn, ana.id, "file-upload", ana.email)
    shown, _ = refresh(database_url, "import_health", discover_connectors().values())
    fathom, upload = rows_of(shown["account list"])
    assert "import-pipeline connect fathom" in fathom[2]
    assert fathom[7] == "once it is connected"
    assert (upload[2], upload[7]) == ("", "")


def test_no_account_at_all_says_so(conn: Connection, database_url: str, ana: tenants.User) -> None:
    shown, _ = refresh(database_url, "import_health")
    assert shown["sources"] == "No source is connected yet."


def test_of_very_many_accounts_the_worst_are_shown_and_the_totals_are_complete(
    conn: Connection, ana: tenants.User
) -> None:
    conn.execute("insert into auth.users (id, email) select gen_random_uuid(), 'u' || n from generate_series(1, 150) n")
    conn.execute(
        "insert into import_sources (user_id, source_app, last_sync_at, error_message)"
        " select id, 'demo', now(), case when email = 'u150' then 'It broke.' end from auth.users"
    )
    health = read_health(conn, 100)
    assert [source["accounts"] for source in health.sources] == [151]
    assert len(health.accounts) == 100
    assert health.accounts[0]["label"] == "u150"


# --- refreshing ---------------------------------------------------------------------------------------------------


class Refreshing:
    """The refresh sensor of a Dagster instance, whose clock a test moves; every request is carried out at once."""

    def __init__(self, instance: dg.DagsterInstance, database_url: str, folder: str) -> None:
        self.instance = instance
        self.demo = Demo([Call("one")])
        self.now = datetime(2026, 3, 2, 10, 2, 7, tzinfo=UTC)
        self.cursor: Any = None
        self.defs = build_defs(
            connectors={"demo": self.demo, "demo-other": OtherDemo()},
            postgres=PostgresResource(url=database_url),
            io_manager=StreamIOManager(base=folder),
        )

    def import_calls(self, **options: Any) -> None:
        job = self.defs.resolve_job_def("import_demo")
        assert job.execute_in_process(instance=self.instance, **options).success

    def tick(self, minutes: float = 0) -> set[str]:
        """What is asked for after so many more minutes."""
        self.now += timedelta(minutes=minutes)
        result = dg.evaluate_automation_conditions(
            self.defs,
            self.instance,
            asset_selection=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
            evaluation_time=self.now,
            cursor=self.cursor,
        )
        self.cursor = result.cursor
        asked = {each.key for each in result.results if each.true_subset.size}
        return {key.to_user_string() for key in asked if isinstance(key, dg.AssetKey)}

    def refresh(self) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def()
        selection = [dg.AssetKey("import_counts"), dg.AssetKey("import_health")]
        assert job.execute_in_process(instance=self.instance, asset_selection=selection).success


BOTH = {"import_counts", "import_health"}


@pytest.fixture
def refreshing(database_url: str, conn: Connection, ana: tenants.User, tmp_path: Any) -> Iterable[Refreshing]:
    ensure_account(conn, ana.id, "demo", ana.email)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Refreshing(instance, database_url, str(tmp_path))


def test_nothing_is_refreshed_before_anything_was_imported(refreshing: Refreshing) -> None:
    assert [refreshing.tick(30) for _ in range(6)] == [set()] * 6


def test_an_import_refreshes_the_assets_once(refreshing: Refreshing) -> None:
    refreshing.tick()
    refreshing.import_calls()
    assert refreshing.tick(0.5) == BOTH
    assert refreshing.tick(0.5) == set()
    refreshing.refresh()
    assert [refreshing.tick(10) for _ in range(4)] == [set()] * 4


def test_an_import_from_before_the_daemon_was_started_refreshes_them_too(refreshing: Refreshing) -> None:
    refreshing.import_calls()
    assert refreshing.tick() == BOTH


def test_a_month_of_a_backfill_refreshes_them_too(refreshing: Refreshing) -> None:
    refreshing.tick()
    refreshing.import_calls(partition_key="2024-03-01")
    assert refreshing.tick(0.5) == BOTH


def test_an_import_that_ends_while_a_refresh_runs_is_not_forgotten(refreshing: Refreshing) -> None:
    refreshing.import_calls()
    assert refreshing.tick() == BOTH
    refreshing.import_calls()
    refreshing.refresh()
    assert refreshing.tick(6) == BOTH


@pytest.mark.long
def test_many_imports_refresh_them_once_in_five_minutes(refreshing: Refreshing) -> None:
    refreshing.tick()
    asked = 0
    for _ in range(20):  # ten minutes
        refreshing.import_calls()
        if refreshing.tick(0.5):
            asked += 1
            refreshing.refresh()
    assert asked == 3
    assert sum(bool(refreshing.tick(0.5)) for _ in range(20)) == 1, "the last imports are not forgotten"


def test_without_imports_they_are_refreshed_once_an_hour(refreshing: Refreshing) -> None:
    refreshing.import_calls()
    assert refreshing.tick() == BOTH
    refreshing.refresh()
    assert [refreshing.tick(10) for _ in range(12)].count(BOTH) == 2
