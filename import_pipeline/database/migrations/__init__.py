"""The schema of the database: bringing it to this version, saying how far it is from it, and what migrating will do.

The SQL lives in `sql/migrations/`, in the naming of the Supabase CLI. `files` reads it, `history` knows what a database
has of it, `objects` what our objects look like. `running` applies what is pending, and `plan` says beforehand what that
does to a library that was there. `explaining` turns errors into what to do. `superseded` knows the files of before
2026-12-01.
"""

from import_pipeline.database.migrations.files import Migration, export, load
from import_pipeline.database.migrations.history import AppliedMigration, MigrationStatus
from import_pipeline.database.migrations.objects import Drift
from import_pipeline.database.migrations.plan import Change, find_changes
from import_pipeline.database.migrations.running import apply, check, find_pending, find_working_runs

__all__ = [
    "AppliedMigration",
    "Change",
    "Drift",
    "Migration",
    "MigrationStatus",
    "apply",
    "check",
    "export",
    "find_changes",
    "find_pending",
    "find_working_runs",
    "load",
]
