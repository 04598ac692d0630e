"""The files of `sql/migrations/`: reading them, and writing them for those who deploy with the Supabase CLI."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from import_pipeline.database.sql import migration_files
from import_pipeline.errors import MigrationDriftError


@dataclass(frozen=True)
class Migration:
    """One file of `sql/migrations/`."""

    version: str
    name: str
    sql: str = field(repr=False)
    checksum: str

    @property
    def filename(self) -> str:
        """The name of the file."""
        return f"{self.version}_{self.name}.sql"


@cache
def load() -> tuple[Migration, ...]:
    """Return the migrations of this version, oldest first."""
    migrations = []
    for path in migration_files():
        version, _, name = path.stem.partition("_")
        # Checkouts differ in line ends; the checksum must not.
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        migrations.append(Migration(version, name, text, checksum(text)))
    return tuple(migrations)


def export(directory: Path) -> list[Path]:
    """Write the migration files for those who deploy with the Supabase CLI.

    Args:
        directory: Usually `supabase/migrations` of the owner's repository; created if missing.

    Returns:
        The paths of all files, written now or there already.

    Raises:
        MigrationDriftError: A file of that name has other content; nothing was written.
    """
    targets = {directory / migration.filename: migration for migration in load()}
    for path, migration in targets.items():
        if path.exists() and squeeze(path.read_text(encoding="utf-8")) != squeeze(migration.sql):
            raise MigrationDriftError(f"{path} exists with other content. Migrations are never edited: remove it.")
    directory.mkdir(parents=True, exist_ok=True)
    for path, migration in targets.items():
        if not path.exists():
            # Of a name that can be guessed: a link that others laid in its way leads nowhere.
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(migration.sql)
    return list(targets)


def squeeze(statements: str) -> str:
    """Return SQL without what a tool that splits it into statements drops or adds."""
    return "".join(character for character in statements if not character.isspace() and character != ";")


def checksum(text: str) -> str:
    """Return what the history keeps of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
