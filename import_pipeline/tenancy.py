"""For whom a transaction works: the role `import_worker`, and the owner whose rows it may touch.

Everything the importer reads or writes for an account happens inside `acting_as`, so that the database itself refuses
rows of others. Nothing here survives the transaction: that is what a pooler in transaction mode asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from import_pipeline.connections import IDLE_IN_TRANSACTION_SECONDS
from import_pipeline.errors import ConfigurationError

WORKER_ROLE = "import_worker"
_ASSUME = "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)"
# In a transaction of the caller's own it is for him to say.
_BOUND = ", set_config('idle_in_transaction_session_timeout', %s, true)"


@contextmanager
def acting_as(conn: psycopg.Connection[Any], user_id: UUID | str | None) -> Iterator[None]:
    """Run a transaction as `import_worker` in the name of one user (None: in nobody's name).

    Inside a transaction of the caller's it is a savepoint, and the caller's role and claims are put back at the end.

    Raises:
        ConfigurationError: The connection's login may not become `import_worker`, or the role does not exist.
    """
    nested = conn.info.transaction_status != TransactionStatus.IDLE
    claims = "" if user_id is None else json.dumps({"sub": str(user_id), "role": "authenticated"})
    with conn.transaction():
        before = None
        if nested:
            with conn.cursor(row_factory=tuple_row) as cursor:
                before = cursor.execute(
                    "select current_setting('role'), coalesce(current_setting('request.jwt.claims', true), '')"
                ).fetchone()
        try:
            if nested:
                conn.execute(_ASSUME, (WORKER_ROLE, claims))
            else:
                conn.execute(_ASSUME + _BOUND, (WORKER_ROLE, claims, f"{IDLE_IN_TRANSACTION_SECONDS}s"))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
            raise ConfigurationError(
                f"The login {conn.info.user!r} may not work as {WORKER_ROLE!r}: run `import-pipeline migrate` with the "
                f"owner of the database, then `grant {WORKER_ROLE} to {conn.info.user}`."
            ) from error
        yield
        # After an error the savepoint's rollback restores both by itself.
        if before is not None:
            conn.execute(_ASSUME, before)
