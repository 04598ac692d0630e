"""Migrating a call library that was here before: everything of its owner's stays, and imports work beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
import tenants
from psycopg import errors, sql

from import_pipeline.database import migrations
from import_pipeline.database.audit import find_findings
from import_pipeline.database.migrations import Migration, find_changes
from import_pipeline.defs.assets.figures import read_import_counts
from import_pipeline.errors import DuplicateRecordingsError, MigrationError
from import_pipeline.library import duplicates

Connection = psycopg.Connection[Any]

pytestmark = pytest.mark.long

ANA = UUID("00000000-0000-4000-8000-00000000000a")
EVA = UUID("00000000-0000-4000-8000-00000000000e")
ANAS_BANK = UUID("10000000-0000-4000-8000-00000000000a")
EVAS_BANK = UUID("10000000-0000-4000-8000-00000000000e")
ACME = UUID("10000000-0000-4000-8000-00000000000c")
ANAS_VAULT = UUID("20000000-0000-4000-8000-00000000000a")
ANAS_SALES_VAULT = UUID("20000000-0000-4000-8000-00000000000b")
ACMES_VAULT = UUID("20000000-0000-4000-8000-00000000000c")
EVAS_VAULT = UUID("20000000-0000-4000-8000-00000000000e")
KICK_OFF = UUID("30000000-0000-4000-8000-000000000001")

THEIRS = """
    select 'column' as kind, format('%s.%s', a.attrelid::regclass, a.attname) as name,
        concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
            a.attacl) as definition
    from pg_attribute as a
    join theirs as t on t.oid = a.attrelid
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0
    union all
    select 'table', t.oid::regclass::text, concat_ws(' ', relowner::regrole, relrowsecurity, relforcerowsecurity, array(
        select format('%s %s', grantee::regrole, privilege_type) from aclexplode(relacl)
        where grantee <> coalesce(to_regrole('import_worker')::oid, 1) order by 1
    ))
    from pg_class as c join theirs as t on t.oid = c.oid
    union all
    select 'constraint', conname, concat_ws(' ', conrelid::regclass, pg_get_constraintdef(c.oid))
    from pg_constraint as c join theirs as t on t.oid = conrelid
    union all
    select 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    from pg_index join theirs as t on t.oid = indrelid
    union all
    select 'trigger', tgname, pg_get_triggerdef(g.oid) || tgenabled::text
    from pg_trigger as g join theirs as t on t.oid = tgrelid where not tgisinternal
    union all
    select 'policy', polname, concat_ws(' ', polrelid::regclass, polcmd::text, polpermissive, polroles::regrole[],
        pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
    from pg_policy join theirs as t on t.oid = polrelid
    union all
    select 'function', p.oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(p.oid), proowner::regrole, proacl)
    from pg_proc as p join pg_namespace as n on n.oid = pronamespace where nspname in ('public', 'auth')
    union all
    select 'default privileges', defaclnamespace::regnamespace::text, concat_ws(' ', defaclobjtype::text, defaclacl)
    from pg_default_acl
"""
TABLES = [
    "auth.users", "public.banks", "public.bank_memberships", "public.vaults", "public.vault_memberships",
    "public.recordings", "public.vault_entries", "public.sync_jobs", "public.comments", "public.activity",
]  # fmt: skip


def catalogue(conn: Connection) -> dict[tuple[str, str], str]:
    """Everything that the owner can have defined about his tables and functions."""
    conn.execute("set local search_path = ''")
    tables = ", ".join(f"(to_regclass('{table}')::oid)" for table in TABLES)
    rows = conn.execute(f"with theirs (oid) as (values {tables}) {THEIRS}").fetchall()
    conn.rollback()
    return {(kind, name): definition for kind, name, definition in rows}


def contents(conn: Connection) -> dict[str, list[str]]:
    """Every row, as text, with the columns it had before."""
    found = {}
    for table in TABLES:
        skipped = " - 'skipped_count'" if table == "public.sync_jobs" else ""
        found[table] = [
            row for [row] in conn.execute(f"select (to_jsonb(t){skipped})::text from {table} as t order by 1")
        ]
    conn.rollback()
    return found


@pytest.fixture
def owner(installed: str) -> Iterator[Connection]:
    """The owner's connection, before anything of ours is there."""
    with psycopg.connect(installed) as conn:
        yield conn
        conn.rollback()


@pytest.fixture
def migrated(owner: Connection) -> Connection:
    """The owner's connection, after the migrations."""
    migrations.apply(owner)
    return owner


def scalar(conn: Connection, statement: str, *parameters: object) -> Any:
    row = conn.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]


# -- What stays -------------------------------------------------------------------------------------------------------


def test_nothing_of_the_owners_is_changed_and_only_this_is_added(owner: Connection) -> None:
    before, rows_before = catalogue(owner), contents(owner)
    migrations.apply(owner)
    after, rows_after = catalogue(owner), contents(owner)
    assert rows_after == rows_before
    assert {key for key in before if after.get(key) != before[key]} == set()
    added = sorted(f"{kind} {name}" for kind, name in after.keys() - before.keys())
    assert added == [
        "column public.sync_jobs.skipped_count",
        "index public.recordings_import_key",
        "index public.sync_jobs_account_idx",
        "index public.sync_jobs_processing_idx",
        "policy Import worker adds only sync jobs of claimed accounts",
        'policy Import worker adds only the claimed user\'s recordings',
        'policy Import worker adds only to the claimed user\'s banks',
        "policy Import worker adds recordings",
        "policy Import worker adds vault entries",
        "policy Import worker enters only vaults its user may write to",
        'policy Import worker keeps only the claimed user\'s sync jobs',
        "policy Import worker keeps sync jobs",
        "policy Import worker sees banks",
        "policy Import worker sees memberships",
        'policy Import worker sees only the claimed user\'s banks',
        'policy Import worker sees only the claimed user\'s memberships',
        'policy Import worker sees only vaults of the claimed user\'s banks',
        "policy Import worker sees recordings",
        "policy Import worker sees vault entries",
        "policy Import worker sees vaults",
    ]  # fmt: skip
    assert migrations.apply(owner) == []
    assert migrations.check(owner).is_current
    assert (catalogue(owner), contents(owner)) == (after, rows_after)


def test_what_migrating_will_do_is_told_before_and_is_all_that_it_does(owner: Connection) -> None:
    before = catalogue(owner)
    told = find_changes(owner)
    assert catalogue(owner) == before
    assert scalar(owner, "select to_regnamespace('import_pipeline')::text") is None
    owner.rollback()
    migrations.apply(owner)
    after = catalogue(owner)
    kinds = {"column", "index", "trigger", "policy", "function", "constraint"}
    done = {f"adds {kind} {name}" for kind, name in after.keys() - before.keys()}
    done |= {
        f"changes {kind} {name}"
        for kind, name in before.keys() & after.keys()
        if after[kind, name] != before[kind, name]
    }
    done |= {f"removes {kind} {name}" for kind, name in before.keys() - after.keys()}
    assert done == {
        f"{change.kind} {change.subject.partition(' on ')[0].replace(chr(34), '')}"
        for change in told
        if change.subject.partition(" ")[0] in kinds
    }
    granted = {
        f"adds rights of import_worker on {table}: {', '.join(privileges)}"
        for table, privileges in owner.execute(
            "select 'public.' || relname, array_agg(lower(privilege_type) order by lower(privilege_type))"
            " from pg_class as c, aclexplode(relacl) where grantee = 'import_worker'::regrole"
            " and relnamespace = 'public'::regnamespace and relname !~ '^import_' group by 1"
        )
    }
    owner.rollback()
    assert granted < {" ".join(str(change).split()) for change in told}
    assert find_changes(owner) == []


def test_a_later_migration_tells_what_it_does_to_the_owners_tables_too(migrated: Connection) -> None:
    more = Migration(
        "20990101000000",
        "add_more",
        "alter table public.recordings add column mood text; create index recordings_mood on public.recordings (mood);"
        " alter function public.is_member(uuid) set search_path = ''; drop policy \"own jobs\" on public.sync_jobs;"
        " grant insert on public.vaults to public; alter table public.banks disable row level security;",
        "",
    )
    told = [(change.kind, change.subject) for change in find_changes(migrated, [*migrations.load(), more])]
    assert told == [
        ("removes", 'policy "own jobs" on public.sync_jobs'),
        ("changes", "function public.is_member(uuid)"),
        ("changes", "table public.banks"),
        ("adds", "column public.recordings.mood"),
        ("adds", "index public.recordings_mood on public.recordings"),
        ("adds", "rights of public on public.vaults"),
    ]


def test_every_policy_we_add_names_the_importer_alone(owner: Connection) -> None:
    before = {name for kind, name in catalogue(owner) if kind == "policy"}
    migrations.apply(owner)
    added = {name: text for (kind, name), text in catalogue(owner).items() if kind == "policy" and name not in before}
    assert [name for name, text in added.items() if "{import_worker}" not in text] == []


def test_a_table_without_row_level_security_stays_so_and_the_owner_is_told(
    owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    owner.execute("alter table public.vault_entries disable row level security")
    owner.commit()
    with caplog.at_level(logging.WARNING):
        migrations.apply(owner)
    assert [record.message for record in caplog.records] == [
        "Row-level security is off on public.vault_entries: the database cannot keep users apart there."
        " To switch it on: alter table public.vault_entries enable row level security;"
    ]
    assert scalar(owner, "select relrowsecurity from pg_class where oid = 'public.vault_entries'::regclass") is False


def test_the_owner_is_told_what_of_his_will_also_bind_the_importer(
    owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    owner.execute("create policy strict on public.recordings as restrictive using (auth.jwt() ->> 'aal' = 'aal2')")
    owner.execute("alter function public.note_recording() security invoker")
    owner.commit()
    with caplog.at_level(logging.WARNING):
        migrations.apply(owner)
    assert [record.message.partition(".")[0] for record in caplog.records] == [
        "Restrictive policies on public",
        "These triggers run as import_worker when a call is imported: note_recording on public",
    ]
    assert '"strict"' in caplog.records[0].message


def test_tables_of_ours_are_closed_in_spite_of_the_owners_default_privileges(migrated: Connection) -> None:
    with tenants.as_role(migrated, "import_worker"):
        pass
    granted = dict(
        migrated.execute(
            "select grantee::regrole::text, string_agg(privilege_type, ' ' order by privilege_type)"
            " from pg_class, aclexplode(relacl) where oid = 'public.import_items'::regclass group by 1"
        ).fetchall()
    )
    assert "anon" not in granted
    assert granted["authenticated"] == "SELECT"
    assert granted["import_worker"] == "INSERT SELECT UPDATE"


# -- What works -------------------------------------------------------------------------------------------------------


def test_the_importer_works_beside_policies_functions_and_triggers_of_the_owners(migrated: Connection) -> None:
    """The owner's policies for public apply to the importer too: it may not execute what they call, and they lead from
    one table to the other and back.
    """
    with tenants.as_user(migrated, ANA, "import_worker"):
        recording_id = scalar(
            migrated,
            "insert into public.recordings (bank_id, owner_user_id, title, source_app, source_metadata)"
            " values (%s, %s, 'New', 'zoom', '{\"external_id\": \"z1\"}') returning id",
            ANAS_BANK, ANA,
        )  # fmt: skip
        migrated.execute(
            "insert into public.vault_entries (vault_id, recording_id) values (%s, %s)"
            " on conflict (vault_id, recording_id) do nothing",
            [ANAS_VAULT, recording_id],
        )
        migrated.execute("insert into public.import_sources (user_id, source_app) values (%s, 'zoom')", [ANA])
        migrated.execute(
            "insert into public.import_items (user_id, source_app, external_id, status, recording_id)"
            " values (%s, 'zoom', 'z1', 'imported', %s)",
            [ANA, recording_id],
        )
        migrated.execute("insert into public.sync_jobs (user_id, skipped_count) values (%s, 1)", [ANA])
        assert set(migrated.execute("select id from public.vaults")) == {
            (ANAS_VAULT,), (ANAS_SALES_VAULT,), (ACMES_VAULT,)
        }  # fmt: skip
        assert set(migrated.execute("select id from public.banks")) == {(ANAS_BANK,), (ACME,)}
        assert set(migrated.execute("select bank_id from public.bank_memberships")) == {(ANAS_BANK,), (ACME,)}
    assert scalar(migrated, "select what from public.activity where what = 'recording New'") == "recording New"
    with tenants.as_user(migrated, ANA):
        assert scalar(migrated, "select count(*) from public.recordings") == 5
        assert scalar(migrated, "select external_id from public.import_items") == "z1"


def test_the_owners_wide_policies_do_not_widen_what_the_importer_may(migrated: Connection) -> None:
    with tenants.as_user(migrated, ANA, "import_worker"):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"), migrated.transaction():
            migrated.execute(
                "insert into public.recordings (bank_id, owner_user_id, title) values (%s, %s, 'x')", [EVAS_BANK, ANA]
            )
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"), migrated.transaction():
            migrated.execute(
                "insert into public.vault_entries (vault_id, recording_id) values (%s, %s)", [EVAS_VAULT, KICK_OFF]
            )


def test_rows_without_an_external_id_stay_legal(migrated: Connection) -> None:
    with tenants.as_user(migrated, ANA):
        for _ in range(2):
            migrated.execute(
                "insert into public.recordings (bank_id, owner_user_id, title, source_app)"
                " values (%s, %s, 'x', 'zoom')",
                [ANAS_BANK, ANA],
            )
    assert scalar(migrated, "select count(*) from public.recordings where title = 'x'") == 2


def test_looking_up_known_calls_uses_the_import_key_beside_the_owners_policies(migrated: Connection) -> None:
    with tenants.as_user(migrated, ANA, "import_worker"):
        migrated.execute("set local enable_seqscan = off")
        plan = "\n".join(
            line
            for [line] in migrated.execute(
                "explain select id from public.recordings where owner_user_id = %s and source_app = 'zoom'"
                " and (source_metadata ->> 'external_id') = any(%s)",
                [ANA, ["101"]],
            )
        )
    assert "recordings_import_key" in plan
    assert "is_member" not in plan
    assert "Filter" not in plan


def test_users_are_found_in_the_products_own_table(migrated: Connection) -> None:
    with tenants.as_role(migrated, "import_worker"):
        assert scalar(migrated, "select import_pipeline.find_user('ana@example.com')") == ANA


def test_an_address_that_two_users_share_is_an_error_and_no_guess(owner: Connection) -> None:
    owner.execute("insert into auth.users (id, email) values (gen_random_uuid(), 'ana@example.com')")
    owner.commit()
    migrations.apply(owner)
    with (
        tenants.as_role(owner, "import_worker"),
        pytest.raises(errors.CardinalityViolation, match="Several users have the e-mail address"),
        owner.transaction(),
    ):
        owner.execute("select import_pipeline.find_user('ANA@example.com')")


# -- get_import_counts ------------------------------------------------------------------------------------------------


def test_an_import_count_of_the_owners_stays_as_it_is_and_the_audit_says_that_it_answers_everybody(
    owner: Connection,
) -> None:
    count = "select source_app, call_count from public.get_import_counts(%s)"
    migrations.apply(owner)
    with owner_as_admin(owner) as conn, tenants.as_role(conn, "anon", {"role": "anon"}):
        assert ("fathom", 3) in conn.execute(count, [ANA]).fetchall()
    findings = find_findings(owner, "definer-callers")
    assert "function public.get_import_counts(uuid)" in {finding.object for finding in findings}
    owner.rollback()
    assert read_import_counts(owner).loc[ANA].to_dict() == {"fathom": 3, "no source": 1}


def owner_as_admin(owner: Connection) -> Connection:
    """A superuser's connection to the same database."""
    host = owner.info.get_parameters()["host"]
    return psycopg.connect(host=host, dbname=owner.info.dbname, user="postgres", port=owner.info.port)


@pytest.mark.parametrize(
    "definition",
    [
        "(p_user_id uuid) returns table (app text, n integer) language sql as 'select ''x'', 1'",
        "(p_user_id uuid) returns bigint language sql as 'select 1::bigint'",
        "(u uuid) returns table (source_app text, call_count bigint) language sql as 'select ''x'', 1::bigint'",
    ],
    ids=["other columns", "one number", "other name of the argument"],
)
def test_an_import_count_of_another_shape_disturbs_nothing(owner: Connection, definition: str) -> None:
    owner.execute("drop function public.get_import_counts(uuid)")
    owner.execute(f"create function public.get_import_counts{definition}")
    owner.execute("create view public.totals as select from auth.users cross join lateral public.get_import_counts(id)")
    owner.commit()
    before = catalogue(owner)
    migrations.apply(owner)
    after = catalogue(owner)
    assert {key for key in before if after.get(key) != before[key]} == set()
    assert migrations.check(owner).is_current
    assert read_import_counts(owner).loc[ANA].to_dict() == {"fathom": 3, "no source": 1}


# -- import_sources that exist already --------------------------------------------------------------------------------

SOURCES = """
    create table public.import_sources (
        id uuid primary key default gen_random_uuid(), user_id uuid not null references auth.users on delete cascade,
        source_app text not null, is_active boolean default true, account_email text, last_sync_at timestamptz,
        error_message text, created_at timestamptz default now(), updated_at timestamptz default now(),
        unique (user_id, source_app)
    );
    alter table public.import_sources enable row level security;
"""
OWNER_POLICIES = """
    create policy s on public.import_sources for select using ((select auth.uid()) = user_id);
    create policy i on public.import_sources for insert with check (auth.uid() = user_id);
    create policy u on public.import_sources for update using (user_id = (select auth.uid()));
    create policy d on public.import_sources for delete using (user_id = auth.uid());
"""


@pytest.mark.parametrize(
    ("policies", "number"),
    [
        (OWNER_POLICIES, 4),
        ("create policy a on public.import_sources for all to authenticated using (auth.uid() = user_id);", 3),
        (OWNER_POLICIES.replace("using (user_id = auth.uid())", "using (true)"), 6),
        ("", 2),
    ],
    ids=["the four policies of the product", "policies for users only", "a policy that is too wide", "no policies"],
)
def test_sources_that_exist_serve_the_importer_whatever_their_policies(
    owner: Connection, policies: str, number: int
) -> None:
    owner.execute(SOURCES + policies)
    owner.execute(
        "insert into public.import_sources (user_id, source_app) values (%s, 'zoom'), (%s, 'zoom')", [ANA, EVA]
    )
    owner.commit()
    migrations.apply(owner)
    assert scalar(
        owner, "select count(*) from pg_policy where polrelid = 'public.import_sources'::regclass"
    ) == number  # fmt: skip
    with tenants.as_user(owner, ANA, "import_worker"):
        assert owner.execute("select user_id from public.import_sources").fetchall() == [(ANA,)]
        assert owner.execute("update public.import_sources set last_sync_at = now()").rowcount == 1
        owner.execute("insert into public.import_sources (user_id, source_app) values (%s, 'fathom')", [ANA])
        assert owner.execute("delete from public.import_sources").rowcount == 2
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"), owner.transaction():
            owner.execute("insert into public.import_sources (user_id, source_app) values (%s, 'fathom')", [EVA])
    with tenants.as_role(owner, "import_worker"):
        assert owner.execute("select user_id from import_pipeline.find_accounts('zoom', null)").fetchall() == [(EVA,)]


def test_tables_of_our_names_that_lack_our_columns_are_refused_before_anything_happens(owner: Connection) -> None:
    owner.execute("create table public.import_sources (id uuid primary key, user_id uuid, source_app text)")
    owner.commit()
    before = catalogue(owner)
    with pytest.raises(MigrationError, match=r"without these columns: public\.import_sources\.account_email, "):
        migrations.apply(owner)
    assert catalogue(owner) == before
    assert scalar(owner, "select to_regnamespace('import_pipeline')::text") is None


def test_a_table_of_the_owners_under_the_name_of_our_ledger_is_refused_before_anything_happens(
    owner: Connection,
) -> None:
    owner.execute("create table public.import_items (id uuid)")
    owner.commit()
    with pytest.raises(MigrationError, match=r"has a relation public\.import_items"):
        migrations.apply(owner)
    assert scalar(owner, "select to_regnamespace('import_pipeline')::text") is None


def test_a_library_of_which_only_a_part_exists_is_completed_without_touching_that_part(owner: Connection) -> None:
    owner.execute("drop table public.vault_memberships, public.bank_memberships, public.sync_jobs cascade")
    owner.execute('drop policy "banks of members" on public.banks')
    owner.commit()
    before = catalogue(owner)
    migrations.apply(owner)
    after = catalogue(owner)
    assert [key for key in before if after.get(key) != before[key]] == []
    theirs = ("public.banks ", "public.vaults ", "public.recordings ", "public.vault_entries ")
    added = [after[key] for key in after.keys() - before.keys() if key[0] == "policy"]
    assert [text for text in added if text.startswith(theirs) and "{import_worker}" not in text] == []
    with tenants.as_user(owner, ANA):
        assert owner.execute("select * from public.bank_memberships").fetchall() == []


# -- Roles that may not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        ("revoke select on auth.users from {owner}", "may not read and reference auth.users"),
        ("revoke references on auth.users from {owner}", "may not read and reference auth.users"),
        (
            "revoke usage on schema auth from {owner}, authenticated, anon, service_role cascade",
            "may not read and reference auth.users",
        ),
        ("alter role {owner} nobypassrls", "Row-level security hides rows of auth.users"),
        ("alter table public.banks owner to postgres", "does not own these tables: public.banks .owner postgres"),
    ],
)
def test_a_role_that_lacks_a_right_is_told_which_and_nothing_happens(
    owner: Connection, obstacle: str, message: str
) -> None:
    with owner_as_admin(owner) as admin:
        admin.execute(obstacle.format(owner=owner.info.user))
        admin.commit()
        before = catalogue(admin)
        with pytest.raises(MigrationError, match=message):
            migrations.apply(owner)
        assert catalogue(admin) == before
        assert scalar(admin, "select to_regnamespace('import_pipeline')::text") is None


def test_forced_policies_that_would_blind_our_functions_are_refused(owner: Connection) -> None:
    """They would see nothing, and every import would be refused or every count be zero, without an error."""
    owner.execute("alter table public.recordings force row level security")
    owner.commit()
    with owner_as_admin(owner) as admin:
        admin.execute("alter table auth.users disable row level security")
        admin.execute(f"alter role {owner.info.user} nobypassrls")
    with pytest.raises(MigrationError, match=r"Row-level security hides rows of public\.recordings"):
        migrations.apply(owner)


# -- Duplicates -------------------------------------------------------------------------------------------------------


def add_copy(
    conn: Connection, number: int, *, external_id: str = "101", bank_id: UUID = ANAS_BANK, **columns: object
) -> UUID:
    """Add a copy of the kick-off, younger the higher its number."""
    recording_id = UUID(f"30000000-0000-4000-8000-0000000001{number:02d}")
    values = {
        "id": recording_id,
        "bank_id": bank_id,
        "owner_user_id": ANA,
        "title": f"Copy {number}",
        "source_app": "fathom",
        "source_metadata": json.dumps({"external_id": external_id}),
        "created_at": f"2025-02-{number:02d}",
        **columns,
    }
    conn.execute(
        sql.SQL("insert into public.recordings ({}) values ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join([sql.Placeholder()] * len(values))
        ),
        list(values.values()),
    )
    conn.commit()
    return recording_id


def server_roles(conn: Connection) -> list[str]:
    return [name for [name] in conn.execute("select rolname from pg_roles where rolname !~ '^owner_' order by 1")]


def test_duplicates_stop_the_migration_before_it_changes_anything(owner: Connection) -> None:
    copies = [add_copy(owner, number) for number in (1, 2)]
    for number in range(10, 22):  # more groups than a message can show
        add_copy(owner, number, external_id=f"many-{number % 6}")
    before, rows_before, roles_before = catalogue(owner), contents(owner), server_roles(owner)
    owner.rollback()
    with pytest.raises(DuplicateRecordingsError) as caught:
        migrations.apply(owner)
    message = str(caught.value)
    assert message.splitlines()[0] == "15 rows of public.recordings are 7 recordings stored more than once."
    assert f"user {ANA}, fathom 101: {KICK_OFF}, {copies[0]}, {copies[1]}" in message
    assert "import-pipeline duplicates" in message.splitlines()[-1]
    assert (catalogue(owner), contents(owner), server_roles(owner)) == (before, rows_before, roles_before)
    assert scalar(owner, "select to_regnamespace('import_pipeline')::text") is None


def test_the_message_shows_ten_examples_at_most(owner: Connection) -> None:
    for group in range(12):
        for copy in (1, 2):
            add_copy(owner, group * 2 + copy, external_id=f"group-{group:02d}", created_at="2025-01-01")
    with pytest.raises(DuplicateRecordingsError) as caught:
        migrations.apply(owner)
    assert str(caught.value).count("user ") == 10


def test_duplicates_that_appear_while_it_runs_keep_no_index_from_being_made(owner: Connection) -> None:
    migrations.apply(owner, migrations.load()[:4])
    copy = add_copy(owner, 1)
    migrations.apply(owner)
    assert migrations.check(owner).is_current
    assert [group.recording_ids for group in duplicates.find_duplicates(owner)] == [(KICK_OFF, copy)]


def test_copies_in_other_banks_are_no_duplicates_and_stop_nothing(owner: Connection) -> None:
    copies = [add_copy(owner, 1, bank_id=ACME), add_copy(owner, 2, bank_id=EVAS_BANK)]
    assert duplicates.find_duplicates(owner) == []
    owner.rollback()
    assert len(migrations.apply(owner)) == len(migrations.load())
    assert duplicates.merge_duplicates(owner) == duplicates.MergeSummary()
    assert scalar(owner, "select count(*) from public.recordings where id = any(%s)", copies) == 2


def test_what_is_no_duplicate_for_the_index_is_none_for_the_check(owner: Connection) -> None:
    add_copy(owner, 1, owner_user_id=EVA)
    add_copy(owner, 2, source_app="zoom")
    add_copy(owner, 3, source_app=None)
    add_copy(owner, 4, source_app=None)
    assert duplicates.find_duplicates(owner) == []
    assert len(migrations.apply(owner)) == len(migrations.load())


def test_the_command_that_the_message_names_makes_the_migration_possible(owner: Connection) -> None:
    for number in (1, 2):
        add_copy(owner, number)
    with pytest.raises(DuplicateRecordingsError):
        migrations.apply(owner)
    summary = duplicates.merge_duplicates(owner)
    assert (summary.merged_groups, summary.deleted_recordings) == (1, 2)
    assert len(migrations.apply(owner)) == len(migrations.load())


def test_duplicates_are_listed_oldest_first(owner: Connection) -> None:
    younger, older = add_copy(owner, 2), add_copy(owner, 1)
    [group] = duplicates.find_duplicates(owner)
    assert (group.user_id, group.source_app, group.external_id) == (ANA, "fathom", "101")
    assert group.recording_ids == (KICK_OFF, older, younger)
    assert group.titles == ("Kick-off", "Copy 1", "Copy 2")


def test_merging_keeps_the_oldest_row_and_moves_what_refers_to_the_others(owner: Connection) -> None:
    copies = [add_copy(owner, number) for number in (1, 2, 3)]
    owner.execute(
        "create table public.likes (recording_id uuid references public.recordings on delete cascade, who text)"
    )
    for copy in copies:
        owner.execute("insert into public.comments (recording_id, body) values (%s, 'On a copy')", [copy])
        owner.execute("insert into public.likes values (%s, 'Eva')", [copy])
        owner.execute("insert into public.vault_entries (vault_id, recording_id) values (%s, %s)", [
            ANAS_SALES_VAULT, copy
        ])  # fmt: skip
    owner.commit()
    summary = duplicates.merge_duplicates(owner)
    assert summary == duplicates.MergeSummary(
        merged_groups=1,
        deleted_recordings=3,
        dropped_entries=2,
        moved_references={"public.vault_entries": 1, "public.comments": 3, "public.likes": 3},
    )
    assert owner.execute(
        "select id, title from public.recordings where source_metadata ->> 'external_id' = '101'"
    ).fetchall() == [(KICK_OFF, "Kick-off")]
    assert scalar(owner, "select count(*) from public.comments where recording_id = %s", KICK_OFF) == 4
    assert set(owner.execute("select vault_id from public.vault_entries where recording_id = %s", [KICK_OFF])) == {
        (ANAS_VAULT,),
        (ANAS_SALES_VAULT,),
    }
    assert scalar(owner, "select count(*) from public.recordings") == 4
    owner.rollback()
    assert duplicates.merge_duplicates(owner) == duplicates.MergeSummary()


def test_merging_keeps_what_only_a_copy_knows(owner: Connection) -> None:
    """An import once stored an empty transcript; the full one came later, as a second row."""
    owner.execute("update public.recordings set full_transcript = '', summary = null where id = %s", [KICK_OFF])
    owner.commit()
    add_copy(owner, 1, full_transcript="", summary="First summary")
    add_copy(owner, 2, full_transcript="All of it", summary="Second summary", global_tags=["sales"], sentiment=0.5)
    duplicates.merge_duplicates(owner)
    assert owner.execute(
        "select title, full_transcript, summary, global_tags, sentiment::float, legacy_recording_id"
        " from public.recordings where id = %s",
        [KICK_OFF],
    ).fetchone() == ("Kick-off", "All of it", "First summary", ["sales"], 0.5, 101)


def test_merging_folds_entries_of_one_vault_into_one(owner: Connection) -> None:
    copy = add_copy(owner, 1)
    folder = UUID("40000000-0000-4000-8000-000000000001")
    owner.execute("update public.vault_entries set local_tags = '{a,b}' where recording_id = %s", [KICK_OFF])
    owner.execute(
        "insert into public.vault_entries (vault_id, recording_id, notes, local_tags, folder_id)"
        " values (%s, %s, %s, %s, %s)",
        [ANAS_VAULT, copy, "on the copy", ["b", "c"], folder],
    )
    owner.commit()
    assert duplicates.merge_duplicates(owner).dropped_entries == 1
    assert owner.execute(
        "select notes, local_tags, folder_id from public.vault_entries where recording_id = %s", [KICK_OFF]
    ).fetchall() == [("by Ana\n\non the copy", ["a", "b", "c"], folder)]


def test_merging_moves_the_ledger_too(migrated: Connection) -> None:
    """A database whose index was dropped by hand can get duplicates again."""
    migrated.execute("drop index public.recordings_import_key")
    copy = add_copy(migrated, 1)
    migrated.execute(
        "insert into public.import_items (user_id, source_app, external_id, status, recording_id)"
        " values (%s, 'fathom', '101', 'imported', %s)",
        [ANA, copy],
    )
    migrated.commit()
    assert duplicates.merge_duplicates(migrated).moved_references == {"public.import_items": 1}
    assert scalar(migrated, "select recording_id from public.import_items") == KICK_OFF


def test_each_bank_keeps_its_oldest_row(owner: Connection) -> None:
    in_acme = [add_copy(owner, number, bank_id=ACME) for number in (2, 3)]
    add_copy(owner, 4)
    summary = duplicates.merge_duplicates(owner)
    assert (summary.merged_groups, summary.deleted_recordings) == (2, 2)
    left = owner.execute("select id from public.recordings where source_metadata ->> 'external_id' = '101' order by id")
    assert left.fetchall() == [(KICK_OFF,), (in_acme[0],)]


def test_a_reference_that_cannot_be_moved_stops_the_merge_before_anything_is_lost(owner: Connection) -> None:
    copy = add_copy(owner, 1)
    owner.execute(
        "create table public.pins (recording_id uuid primary key references public.recordings on delete cascade)"
    )
    owner.execute("insert into public.pins values (%s), (%s)", [KICK_OFF, copy])
    owner.commit()
    before = contents(owner)
    with pytest.raises(MigrationError, match=r"Rows of public\.pins that refer to a copy cannot be moved"):
        duplicates.merge_duplicates(owner)
    assert contents(owner) == before
    assert scalar(owner, "select count(*) from public.pins") == 2


def test_merging_needs_a_login_that_sees_all_recordings(owner: Connection) -> None:
    with (
        tenants.as_user(owner_as_admin(owner), ANA) as conn,
        pytest.raises(MigrationError, match="Row-level security hides recordings"),
    ):
        duplicates.find_duplicates(conn)


def test_an_empty_database_has_no_duplicates(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        assert duplicates.find_duplicates(conn) == []
        conn.rollback()
        assert duplicates.merge_duplicates(conn) == duplicates.MergeSummary()


def test_merging_while_somebody_writes_says_so_instead_of_waiting_for_ever(owner: Connection, installed: str) -> None:
    add_copy(owner, 1)
    with psycopg.connect(installed) as writer:
        writer.execute("update public.recordings set title = 'Being written'")
        with pytest.raises(MigrationError, match="Nothing was merged: somebody else is writing recordings"):
            duplicates.merge_duplicates(owner, lock_timeout_seconds=0.2)
    assert duplicates.merge_duplicates(owner).merged_groups == 1
