"""What the schema promises, whoever asks: keys, constraints, shapes, and what every object of ours has in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid1, uuid4, uuid5

import psycopg
import pytest
import servers
import tenants
from psycopg import errors
from tenants import User

from import_pipeline.database import migrations
from import_pipeline.database.sql import query
from import_pipeline.pipeline import new_recording_id, uuid7

Connection = psycopg.Connection[Any]


@pytest.fixture
def ana(conn: Connection) -> User:
    return tenants.make_user(conn)


def add_recording(
    conn: Connection,
    owner: User,
    external_id: str | None,
    *,
    source_app: str | None = "zoom",
    title: str = "Call",
    id: UUID | None = None,
    bank_id: UUID | None = None,
) -> UUID:
    metadata = {} if external_id is None else {"external_id": external_id}
    row = conn.execute(
        "insert into public.recordings (id, bank_id, owner_user_id, title, source_app, source_metadata)"
        " values (%s, %s, %s, %s, %s, %s) returning id",
        [id or uuid4(), bank_id or owner.bank_id, owner.id, title, source_app, json.dumps(metadata)],
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def add_source(conn: Connection, owner: User, source_app: str = "zoom", *, is_active: bool = True) -> UUID:
    row = conn.execute(
        "insert into public.import_sources (user_id, source_app, is_active, account_email) values (%s, %s, %s, %s)"
        " returning id",
        [owner.id, source_app, is_active, owner.email],
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def add_item(conn: Connection, owner: User, external_id: str, status: str = "imported", **columns: object) -> None:
    names = ["user_id", "source_app", "external_id", "status", *columns]
    conn.execute(
        f"insert into public.import_items ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
        [owner.id, "zoom", external_id, status, *columns.values()],
    )


# -- Exactly once -----------------------------------------------------------------------------------------------------


def test_one_user_has_one_import_of_one_call_once(conn: Connection, ana: User) -> None:
    first = add_recording(conn, ana, "call-1", id=new_recording_id())
    with pytest.raises(errors.UniqueViolation, match="recordings_import_key"), conn.transaction():
        add_recording(conn, ana, "call-1", title="Another title", id=new_recording_id())
    assert conn.execute("select id, title from public.recordings").fetchall() == [(first, "Call")]


def test_imports_conflict_in_another_bank_of_the_same_user_too(conn: Connection, ana: User, ben: User) -> None:
    add_recording(conn, ana, "call-1", id=new_recording_id())
    with pytest.raises(errors.UniqueViolation, match="recordings_import_key"):
        add_recording(conn, ana, "call-1", id=new_recording_id(), bank_id=ben.bank_id)


@pytest.mark.parametrize("new_id", [uuid4, uuid1, uuid7, lambda: uuid5(NAMESPACE_URL, str(uuid4()))])
def test_ids_of_anybody_elses_never_conflict(conn: Connection, ana: User, new_id: Callable[[], Any]) -> None:
    """Copies, in whatever bank, and what other importers bring."""
    add_recording(conn, ana, "call-1", id=new_recording_id())
    for _ in range(3):
        add_recording(conn, ana, "call-1", id=UUID(int=new_id().int))
    assert conn.execute("select count(*) from public.recordings").fetchone() == (4,)


def test_the_same_id_of_another_user_or_source_is_another_call(conn: Connection, ana: User, ben: User) -> None:
    for owner, source_app in ((ana, "zoom"), (ben, "zoom"), (ana, "fathom")):
        add_recording(conn, owner, "123456789", source_app=source_app)
    assert conn.execute("select count(*) from public.recordings").fetchone() == (3,)


@pytest.mark.parametrize(("external_id", "source_app"), [(None, "zoom"), ("call-1", None), (None, None)])
def test_rows_that_no_import_made_never_conflict(
    conn: Connection, ana: User, external_id: str | None, source_app: str | None
) -> None:
    ids = {add_recording(conn, ana, external_id, source_app=source_app) for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("with_statistics", [False, True])
@pytest.mark.parametrize("question", ["find_recordings", "find_items"])
def test_looking_up_known_calls_uses_the_import_key_even_without_statistics(
    conn: Connection, ana: User, with_statistics: bool, question: str
) -> None:
    """Any other select policy than `true` made this a sequential scan, because `->>` is not leakproof."""
    for table in ("recordings", "import_items"):
        conn.execute(f"alter table public.{table} set (autovacuum_enabled = false)")
    conn.execute(
        "with added as ("
        " insert into public.recordings (bank_id, owner_user_id, title, full_transcript, source_app, source_metadata)"
        " select %s, %s, 'Call', repeat('Hello. ', 100), 'zoom', jsonb_build_object('external_id', 'call-' || n)"
        " from generate_series(1, 20000) as n returning id, owner_user_id, source_app, source_metadata"
        ") insert into public.import_items (user_id, source_app, external_id, status, recording_id)"
        " select owner_user_id, source_app, source_metadata ->> 'external_id', 'imported', id from added",
        [ana.bank_id, ana.id],
    )
    if with_statistics:
        conn.execute("analyze public.recordings, public.import_items")
    wanted = [f"call-{n}" for n in range(19900, 20100)]
    parameters = {"user_id": ana.id, "source_app": "zoom", "external_ids": wanted}
    with tenants.as_user(conn, ana.id, "import_worker"):
        plan = "\n".join(line for [line] in conn.execute("explain " + query(question), parameters))
        found = conn.execute(query(question), parameters).fetchall()
    assert {"find_recordings": "recordings_import_key", "find_items": "import_items_pkey"}[question] in plan
    assert "Seq Scan" not in plan
    assert {external_id for external_id, *_ in found} == {f"call-{n}" for n in range(19900, 20001)}


# -- The ledger -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("external_id", ["x", "x" * 512, "ü" * 256], ids=["shortest", "longest", "longest in UTF-8"])
def test_the_ledger_takes_ids_up_to_512_bytes(conn: Connection, ana: User, external_id: str) -> None:
    add_item(conn, ana, external_id)
    assert conn.execute("select external_id from public.import_items").fetchone() == (external_id,)


@pytest.mark.parametrize("external_id", ["", "x" * 513, "ü" * 257], ids=["empty", "too long", "too long in UTF-8"])
def test_the_ledger_refuses_empty_and_over_long_ids(conn: Connection, ana: User, external_id: str) -> None:
    with pytest.raises(errors.CheckViolation, match="import_items_external_id_check"):
        add_item(conn, ana, external_id)


def test_the_owners_table_takes_ids_of_any_length(conn: Connection, ana: User) -> None:
    add_recording(conn, ana, "")
    add_recording(conn, ana, "x" * 2000)
    assert conn.execute("select count(*) from public.recordings").fetchone() == (2,)


@pytest.mark.parametrize("status", ["imported", "waiting", "failed", "ignored"])
def test_the_ledger_knows_four_statuses(conn: Connection, ana: User, status: str) -> None:
    add_item(conn, ana, "call-1", status)
    with pytest.raises(errors.CheckViolation, match="import_items_status_check"):
        add_item(conn, ana, "call-2", status.upper())


@pytest.mark.parametrize("error_class", ["auth", "rate", "transient", "data", "permanent", "bug"])
def test_the_ledger_knows_six_classes_of_errors(conn: Connection, ana: User, error_class: str) -> None:
    add_item(conn, ana, "call-1", "failed", error_class=error_class)
    with pytest.raises(errors.CheckViolation, match="import_items_error_class_check"):
        add_item(conn, ana, "call-2", "failed", error_class="oops")


def test_an_item_is_in_the_ledger_once(conn: Connection, ana: User, ben: User) -> None:
    add_item(conn, ana, "call-1", "waiting")
    add_item(conn, ben, "call-1", "waiting")
    with pytest.raises(errors.UniqueViolation, match="import_items_pkey"):
        add_item(conn, ana, "call-1", "failed")


def test_a_deleted_recording_leaves_its_item_as_a_tombstone_and_takes_its_entries(conn: Connection, ana: User) -> None:
    """The owner may not update the ledger; the database does it for him."""
    gone, kept = add_recording(conn, ana, "call-1"), add_recording(conn, ana, "call-2")
    for recording_id, external_id in ((gone, "call-1"), (kept, "call-2")):
        add_item(conn, ana, external_id, recording_id=recording_id)
        conn.execute(
            "insert into public.vault_entries (vault_id, recording_id) values (%s, %s)", [ana.vault_id, recording_id]
        )
    with tenants.as_user(conn, ana.id):
        assert conn.execute("delete from public.recordings where id = %s", [gone]).rowcount == 1
    assert conn.execute(
        "select external_id, status, recording_id from public.import_items order by external_id"
    ).fetchall() == [("call-1", "imported", None), ("call-2", "imported", kept)]
    assert conn.execute("select recording_id from public.vault_entries").fetchall() == [(kept,)]


def test_a_deleted_user_takes_everything_along(conn: Connection, ana: User, ben: User) -> None:
    for user in (ana, ben):
        recording_id = add_recording(conn, user, "call-1")
        add_item(conn, user, "call-1", recording_id=recording_id)
        account_id = add_source(conn, user)
        conn.execute("insert into public.sync_jobs (user_id) values (%s)", [user.id])
        conn.execute("insert into import_pipeline.credentials (account_id, secret) values (%s, 'x')", [account_id])
        conn.execute(
            "insert into import_pipeline.leases (account_id, holder, holder_process, expires_at)"
            " values (%s, 'run', 'process', now())",
            [account_id],
        )
        conn.execute("insert into import_pipeline.rate_budgets (account_id, name) values (%s, 'api')", [account_id])
    conn.execute("delete from auth.users where id = %s", [ana.id])
    for table in (
        "public.bank_memberships", "public.vault_memberships", "public.recordings", "public.import_items",
        "public.import_sources", "public.sync_jobs", "import_pipeline.credentials", "import_pipeline.leases",
        "import_pipeline.rate_budgets",
    ):  # fmt: skip
        assert conn.execute(f"select count(*) from {table}").fetchone() == (1,), table


# -- Shapes -----------------------------------------------------------------------------------------------------------


def columns_of(conn: Connection, table: str) -> dict[str, str]:
    return dict(
        conn.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
            [table],
        ).fetchall()
    )


@pytest.mark.parametrize(
    ("table", "columns"),
    {
        "auth.users": "id email",
        "public.banks": "id name type",
        "public.bank_memberships": "bank_id user_id role",
        "public.vaults": "id bank_id name vault_type",
        "public.vault_memberships": "vault_id user_id role",
        "public.recordings": "id legacy_recording_id bank_id owner_user_id title audio_url video_url full_transcript"
        " summary global_tags source_app source_metadata duration recording_start_time recording_end_time created_at"
        " synced_at updated_at",
        "public.vault_entries": "id vault_id recording_id folder_id local_tags scores notes created_at updated_at",
        "public.sync_jobs": "id user_id status type started_at completed_at error metadata recording_ids"
        " progress_current progress_total synced_ids failed_ids skipped_count created_at updated_at",
        "public.import_items": "user_id source_app external_id status recording_id title location started_at attempts"
        " error_class error_message retry_at run_id first_seen_at updated_at",
    }.items(),
)
def test_tables_have_the_columns_of_the_product(conn: Connection, table: str, columns: str) -> None:
    assert [name for name in columns.split() if name not in columns_of(conn, table)] == []


def test_every_instant_has_a_time_zone(conn: Connection) -> None:
    assert conn.execute(
        "select attrelid::regclass, attname from pg_attribute join pg_class as c on c.oid = attrelid"
        " join pg_namespace as n on n.oid = relnamespace"
        " where nspname in ('public', 'auth', 'import_pipeline') and atttypid = 'timestamp'::regtype"
    ).fetchall() == []  # fmt: skip


def test_import_sources_has_nine_columns(conn: Connection) -> None:
    assert columns_of(conn, "public.import_sources") == {
        "id": "uuid",
        "user_id": "uuid",
        "source_app": "text",
        "is_active": "boolean",
        "account_email": "text",
        "last_sync_at": "timestamp with time zone",
        "error_message": "text",
        "created_at": "timestamp with time zone",
        "updated_at": "timestamp with time zone",
    }


def test_import_sources_has_one_row_per_user_and_source_and_an_index_on_the_user(conn: Connection, ana: User) -> None:
    add_source(conn, ana)
    assert conn.execute("select is_active, last_sync_at from public.import_sources").fetchone() == (True, None)
    with pytest.raises(errors.UniqueViolation), conn.transaction():
        add_source(conn, ana)
    assert conn.execute("select pg_get_indexdef('public.import_sources_user_id_idx'::regclass)").fetchone() == (
        "CREATE INDEX import_sources_user_id_idx ON public.import_sources USING btree (user_id)",
    )


def test_import_sources_has_exactly_four_policies_each_evaluated_once_per_statement(conn: Connection) -> None:
    conn.execute("set local search_path = ''")
    rows = conn.execute(
        "select polcmd::text, coalesce(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))"
        " from pg_policy where polrelid = 'public.import_sources'::regclass order by 1"
    ).fetchall()
    assert rows == [(command, "(( SELECT auth.uid() AS uid) = user_id)") for command in "adrw"]


@pytest.mark.parametrize("status", ["processing", "completed", "completed_with_errors", "failed", "cancelled"])
def test_sync_jobs_know_five_statuses_and_take_ids_as_text(conn: Connection, ana: User, status: str) -> None:
    """The product's integer[] dropped UUIDs silently, and 11-digit meeting numbers overflowed."""
    ids = [str(uuid4()), "81234567890"]
    conn.execute(
        "insert into public.sync_jobs (user_id, status, recording_ids, synced_ids, failed_ids)"
        " values (%s, %s, %s, %s, %s)",
        [ana.id, status, ids, ids, ids],
    )
    assert conn.execute("select recording_ids, skipped_count, metadata from public.sync_jobs").fetchone() == (
        ids,
        0,
        {},
    )
    with pytest.raises(errors.CheckViolation):
        conn.execute("insert into public.sync_jobs (user_id, status) values (%s, 'done')", [ana.id])


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("insert into public.banks (name, type) values ('x', 'savings')", "banks_type_check"),
        ("update public.bank_memberships set role = 'owner'", "bank_memberships_role_check"),
        ("update public.vaults set vault_type = 'secret'", "vaults_vault_type_check"),
        ("update public.vault_memberships set role = 'owner'", "vault_memberships_role_check"),
    ],
)
def test_kinds_and_roles_are_those_of_the_product(conn: Connection, ana: User, statement: str, constraint: str) -> None:
    with pytest.raises(errors.CheckViolation, match=constraint):
        conn.execute(statement)


def test_the_transcript_has_no_full_text_index(conn: Connection) -> None:
    """It would cost most of the insert time and refuse texts of very many distinct words."""
    indexes = [name for [name] in conn.execute(
        "select indexrelid::regclass::text from pg_index where indrelid = 'public.recordings'::regclass order by 1"
    )]  # fmt: skip
    assert indexes == ["recordings_bank_id_legacy_recording_id_key", "recordings_import_key", "recordings_pkey"]


def test_foreign_keys_of_our_tables_are_indexed(conn: Connection) -> None:
    unindexed = conn.execute(
        "select conrelid::regclass, conname from pg_constraint as c join pg_class as t on t.oid = conrelid"
        " join pg_namespace as n on n.oid = relnamespace"
        " where contype = 'f' and nspname in ('public', 'import_pipeline') and not exists ("
        "     select from pg_index as i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1]"
        " )"
    ).fetchall()
    # The import key leads with owner_user_id, the legacy key with bank_id.
    assert unindexed == []


# -- Claims -----------------------------------------------------------------------------------------------------------


def test_claims_are_read_as_on_supabase(conn: Connection) -> None:
    user_id = uuid4()
    ask = "select auth.uid(), auth.role(), auth.jwt()"
    assert conn.execute(ask).fetchone() == (None, None, None)
    claims = {"sub": str(user_id), "role": "authenticated", "aal": "aal1"}
    conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
    assert conn.execute(ask).fetchone() == (user_id, "authenticated", claims)
    conn.rollback()
    # After a transaction the setting is an empty text, not gone.
    assert conn.execute(ask).fetchone() == (None, None, None)


# -- What all objects of ours have in common --------------------------------------------------------------------------
# Row-level security, views, claims in policies, functions with their owner's rights: test_audit.py.


def test_functions_that_need_no_more_than_the_importer_may_have_his_rights_only(conn: Connection) -> None:
    assert conn.execute(
        "select array_agg(proname order by proname) from pg_proc"
        " where pronamespace = 'import_pipeline'::regnamespace and not prosecdef"
    ).fetchone() == (["count_request", "known_cursor", "known_time", "settle_rate_budgets", "take_rate_budgets"],)


def test_functions_with_their_owners_rights_look_at_nobodys_temporary_objects(conn: Connection) -> None:
    """With an empty path alone, a domain of the caller's took the place of `jsonb` within `auth.uid()`.

    Its check ran with the rights of the function's owner.
    """
    ana = tenants.make_user(conn)
    conn.execute("create role somebody_of_test in role authenticated, import_worker")
    conn.execute("set local role somebody_of_test")
    conn.execute("create temporary table ran (who text)")
    conn.execute("grant insert on ran to public")
    for name in ("jsonb", "uuid"):
        conn.execute(
            f"create function pg_temp.note(pg_catalog.{name}) returns boolean language plpgsql as"
            " $$ begin insert into pg_temp.ran values (current_user); return true; end $$"
        )
        conn.execute(f"create domain pg_temp.{name} as pg_catalog.{name} check (pg_temp.note(value))")
    conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": str(ana.id)})])
    for call in (
        *(f"public.get_import_counts('{ana.id}')", "import_pipeline.claimed_bank_ids()"),
        *("import_pipeline.claimed_sources()", "import_pipeline.claimed_account_ids()"),
        *(f"import_pipeline.may_enter('{ana.id}', '{ana.id}')", "import_pipeline.account_health(null, null)"),
    ):
        conn.execute(f"select * from {call}")
    assert conn.execute("select who from pg_temp.ran where who <> 'somebody_of_test'").fetchall() == []


# -- get_import_counts ------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(conn: Connection, ana: User, ben: User) -> tuple[User, User]:
    for owner, source_app, number in ((ana, "zoom", 3), (ana, "fathom", 2), (ben, "zoom", 1)):
        for n in range(number):
            add_recording(conn, owner, f"call-{n}", source_app=source_app)
    conn.commit()
    return ana, ben


def counts(conn: Connection, user: User) -> list[tuple[str, int]]:
    return conn.execute("select source_app, call_count from public.get_import_counts(%s)", [user.id]).fetchall()


ANAS = [("fathom", 2), ("zoom", 3)]
BENS = [("zoom", 1)]


def test_a_user_counts_his_own_recordings_and_nobody_elses(conn: Connection, counted: tuple[User, User]) -> None:
    ana, ben = counted
    with tenants.as_user(conn, ana.id):
        assert counts(conn, ana) == ANAS
        with pytest.raises(errors.InsufficientPrivilege, match="only be read by the user"), conn.transaction():
            counts(conn, ben)


def test_nobody_signed_in_counts_nothing(conn: Connection, counted: tuple[User, User]) -> None:
    """The product's first version answered everybody, even without signing in."""
    for claims in ({"role": "anon"}, None):
        with (
            tenants.as_role(conn, "anon", claims),
            pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"),
            conn.transaction(),
        ):
            counts(conn, counted[0])


def test_the_service_role_counts_anybodys_recordings(conn: Connection, counted: tuple[User, User]) -> None:
    with tenants.as_role(conn, "service_role", {"role": "service_role"}):
        assert [counts(conn, user) for user in counted] == [ANAS, BENS]


def test_the_importer_counts_for_the_user_it_works_for(conn: Connection, counted: tuple[User, User]) -> None:
    ana, ben = counted
    with tenants.as_user(conn, ana.id, "import_worker"):
        assert counts(conn, ana) == ANAS
        with pytest.raises(errors.InsufficientPrivilege), conn.transaction():
            counts(conn, ben)


def test_a_direct_connection_without_claims_counts_anybodys_recordings(
    conn: Connection, counted: tuple[User, User]
) -> None:
    assert [counts(conn, user) for user in counted] == [ANAS, BENS]
    conn.execute("select set_config('request.jwt.claims', '{}', true)")
    assert counts(conn, counted[0]) == ANAS


@pytest.fixture
def through_the_api(conn: Connection) -> Iterator[None]:
    """Make the session one of the API's login role, as PostgREST logs in."""
    try:
        with conn.transaction():
            conn.execute("create role authenticator login noinherit")
    except errors.DuplicateObject:
        pass
    conn.execute("grant anon, authenticated, service_role to authenticator")
    conn.execute("grant usage on schema public to authenticator")
    conn.execute("grant execute on function public.get_import_counts(uuid) to authenticator")
    conn.execute("set session authorization authenticator")
    yield
    conn.rollback()


def test_a_request_through_the_api_without_claims_counts_nothing(
    conn: Connection, counted: tuple[User, User], through_the_api: None
) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="only be read by the user"), conn.transaction():
        counts(conn, counted[0])
    conn.execute("set local role authenticated")
    with pytest.raises(errors.InsufficientPrivilege, match="only be read by the user"), conn.transaction():
        counts(conn, counted[0])


def test_a_request_through_the_api_with_claims_counts_the_users_own(
    conn: Connection, counted: tuple[User, User], through_the_api: None
) -> None:
    claims = {"sub": str(counted[0].id), "role": "authenticated"}
    conn.execute("set local role authenticated")
    conn.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
    assert counts(conn, counted[0]) == ANAS


def test_counting_does_not_read_transcripts(conn: Connection, counted: tuple[User, User]) -> None:
    """One aggregate over the rows, whatever hides in the caller's search_path."""
    conn.execute("create schema trap")
    conn.execute("create table trap.recordings (owner_user_id uuid, source_app text)")
    conn.execute("create function trap.count() returns bigint language sql as 'select 0::bigint'")
    conn.execute("set local search_path = trap, public")
    assert counts(conn, counted[0]) == ANAS


# -- Accounts and users -----------------------------------------------------------------------------------------------


def test_users_are_found_by_address_in_any_case(conn: Connection, ana: User) -> None:
    with tenants.as_role(conn, "import_worker"):
        for address, found in (("ana@example.com", ana.id), ("ANA@Example.COM", ana.id), ("who@example.com", None)):
            assert conn.execute("select import_pipeline.find_user(%s)", [address]).fetchone() == (found,)


LOOK_ALIKES = [
    *("\u212aate@example.com", "kate@example.\u212aom", "kate@exampl\u0117.com", "ｋate@example.com"),
    *("ka\u0165e@example.com", "kate@example.com\u200b", "kat\u00e9@example.com", " kate@example.com"),
]


@pytest.mark.parametrize("address", LOOK_ALIKES)
def test_no_look_alike_is_taken_for_an_address(conn: Connection, address: str) -> None:
    """Attack A12: what `lower` makes of other letters depends on the database."""
    kate = tenants.make_user(conn, "kate@example.com")
    other = tenants.make_user(conn, address)
    ask = "select import_pipeline.find_user(%s)"
    with tenants.as_role(conn, "import_worker"):
        assert conn.execute(ask, ["KATE@example.com"]).fetchone() == (kate.id,)
        assert conn.execute(ask, [address]).fetchone() == (other.id,)


@pytest.mark.parametrize(
    ("mine", "asked"),
    [
        ("kate@example.com", "\u212aATE@example.com"),
        ("sam@example.com", "\u017fam@example.com"),
        ("ivo@example.com", "\u0130vo@example.com"),
        ("ivo@example.com", "\u0131vo@example.com"),
        ("ren\u00e9@example.com", "REN\u00c9@example.com"),
        ("ren\u00e9@example.com", "rene\u0301@example.com"),
        ("\u03c3am@example.com", "\u03c2am@example.com"),
    ],
)
def test_only_ascii_letters_have_two_cases(conn: Connection, mine: str, asked: str) -> None:
    """Attack A12."""
    user = tenants.make_user(conn, mine)
    with tenants.as_role(conn, "import_worker"):
        assert conn.execute("select import_pipeline.find_user(%s)", [asked]).fetchone() == (None,)
        assert conn.execute("select import_pipeline.find_user(%s)", [mine]).fetchone() == (user.id,)
        swapped = "".join(char.swapcase() if char.isascii() else char for char in mine)
        assert conn.execute("select import_pipeline.find_user(%s)", [swapped]).fetchone() == (user.id,)


@pytest.mark.long
def test_a_column_whose_collation_takes_letters_for_each_other_changes_nothing(postgres15: str) -> None:
    """Attack A12, on a database whose owner compares addresses without regard to case and accents."""
    url = servers.create_database(postgres15)
    try:
        with psycopg.connect(url) as conn:
            migrations.apply(conn)
            conn.execute(
                "create collation public.loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
            )
            conn.execute("alter table auth.users alter column email type text collate public.loose")
            kate = tenants.make_user(conn, "kate@example.com")
            asked = {"KATE@example.com": kate.id, "\u212aate@example.com": None, "kat\u00e9@example.com": None}
            with tenants.as_role(conn, "import_worker"):
                for address, found in asked.items():
                    answer = conn.execute("select import_pipeline.find_user(%s)", [address]).fetchone()
                    assert answer == (found,), address
    finally:
        servers.drop_database(postgres15, url)


def test_a_user_is_found_by_an_index(conn: Connection) -> None:
    conn.execute("insert into auth.users (id, email) select gen_random_uuid(), n || '@example.com'"
                 " from generate_series(1, 3000) as n")  # fmt: skip
    conn.execute("analyze auth.users")
    plan = conn.execute("explain select u.id from auth.users as u"
                        " where lower(u.email::text collate \"C\") = lower('7@example.com' collate \"C\")")  # fmt: skip
    assert "users_email_key" in "".join(row[0] for row in plan)


def test_several_users_of_one_address_are_an_error(conn: Connection) -> None:
    conn.execute("drop index auth.users_email_key")
    for address in ("kate@example.com", "Kate@Example.com"):
        tenants.make_user(conn, address)
    with pytest.raises(errors.CardinalityViolation, match="Several users"):
        conn.execute("select import_pipeline.find_user('KATE@example.com')")


def test_accounts_are_found_for_users_or_for_all(conn: Connection, ana: User, ben: User) -> None:
    anas, bens = add_source(conn, ana), add_source(conn, ben, is_active=False)
    add_source(conn, ana, "fathom")
    ask = "select id, user_id, source_app, account_email, last_sync_at, email" \
        " from import_pipeline.find_accounts('zoom', %s)"  # fmt: skip
    row_of_ana = (anas, ana.id, "zoom", ana.email, None, ana.email)
    row_of_ben = (bens, ben.id, "zoom", ben.email, None, ben.email)
    with tenants.as_role(conn, "import_worker"):
        assert conn.execute(ask, [None]).fetchall() == [row_of_ana]
        assert conn.execute(ask, [[ben.id]]).fetchall() == [row_of_ben]
        assert set(conn.execute(ask, [[ana.id, ben.id, uuid4()]])) == {row_of_ana, row_of_ben}
        assert conn.execute(ask, [[]]).fetchall() == []


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize(
    "call",
    [
        *("find_user('ana@example.com')", "find_accounts('zoom', null)", "due_accounts('zoom')"),
        *("account_health(null, null)", "overdue_items('zoom', now(), 1)", "name_users('{}')"),
    ],
)
def test_nobody_but_the_importer_finds_users_and_accounts(conn: Connection, ana: User, role: str, call: str) -> None:
    with tenants.as_user(conn, ana.id, role), pytest.raises(errors.InsufficientPrivilege), conn.transaction():
        conn.execute(f"select * from import_pipeline.{call}")
