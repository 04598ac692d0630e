"""Where a recording belongs: the bank and the vault that it names, or its owner's personal ones.

What a user may enter is decided by the database's policies; here is found out what to ask for, and said why not.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from import_pipeline.database.connections import prepares
from import_pipeline.database.sql import query
from import_pipeline.errors import BankError
from import_pipeline.records import StorableRecord


class Destinations:
    """Bank and vault for each record of one chunk, each looked up once.

    Args:
        conn: In a transaction in the owner's name.
        user_id: The owner.
    """

    def __init__(self, conn: psycopg.Connection[Any], user_id: UUID | str) -> None:
        self._conn = conn
        self.user_id = user_id
        self._found: dict[tuple[UUID | None, UUID | None], tuple[UUID, UUID | None] | BankError] = {}

    def resolve(self, record: StorableRecord) -> tuple[UUID, UUID | None]:
        """Return bank and vault; no vault if none is named and the user has no personal one in the bank.

        Raises:
            BankError: The record cannot go where it says, or does not say where of several.
        """
        key = (record.bank_id, record.vault_id)
        if key not in self._found:
            try:
                self._found[key] = self._look_up(*key)
            except BankError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, BankError):
            raise BankError(str(found))
        return found

    def _look_up(self, bank_id: UUID | None, vault_id: UUID | None) -> tuple[UUID, UUID | None]:
        parameters = {"user_id": self.user_id, "bank_id": bank_id, "vault_id": vault_id}
        with self._conn.cursor(row_factory=tuple_row) as cursor:
            found = cursor.execute(query("find_destinations"), parameters, prepare=prepares(self._conn)).fetchall()
        if not found and bank_id is not None:
            raise BankError(f"The user {self.user_id} is not a member of the bank {bank_id}.")
        if not found and vault_id is not None:
            raise BankError(f"The user {self.user_id} is not a member of the bank of vault {vault_id}.")
        if len(found) != 1:
            count = "no personal bank" if not found else f"{len(found)} personal banks"
            raise BankError(f"The user {self.user_id} has {count}; name the bank of the recording.")
        bank, vault, is_in_bank = found[0]
        if vault is None and vault_id is not None:
            if not is_in_bank:
                raise BankError(f"The vault {vault_id} is not in the bank {bank}.")
            raise BankError(
                f"The user {self.user_id} may not put recordings into the vault {vault_id}: that takes the role "
                "vault_owner, vault_admin, manager or member there. Name another vault, or none for their own."
            )
        return bank, vault
