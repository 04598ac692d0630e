"""The assets: `recordings/<source>`, which the jobs materialise, and `import_counts`.

Derived from the connectors. The recordings themselves live in Postgres; an asset only says what happened to them.
"""

from collections.abc import Iterable

import dagster as dg

from import_pipeline.accounts import find_accounts
from import_pipeline.connectors.base import Connector
from import_pipeline.ledger import count_recordings
from import_pipeline.postgres import PostgresResource
from import_pipeline.tenancy import acting_as


def recordings_asset(connector: Connector) -> dg.AssetSpec:
    """Return the asset that stands for a source's recordings; `report` materialises it."""
    return dg.AssetSpec(
        ["recordings", connector.source_app],
        description=f"Recordings imported from {connector.title}. {connector.description}",
        group_name="recordings",
        kinds={"postgres"},
        metadata={"documentation": dg.MetadataValue.url(connector.documentation_url)},
    )


def build_import_counts(connectors: Iterable[Connector]) -> dg.AssetsDefinition:
    """Return the asset `import_counts`: recordings by user and source, as `get_import_counts` says."""
    known = list(connectors)

    @dg.asset(
        name="import_counts",
        deps=[["recordings", connector.source_app] for connector in known],
        group_name="recordings",
        kinds={"postgres", "pandas"},
        description="How many calls of which source each user has.",
    )
    def import_counts(postgres: PostgresResource) -> dg.MaterializeResult[None]:
        import pandas as pd  # slow to import, and needed only when this asset is made

        rows = []
        with postgres.connection() as conn:
            users = {
                account.user_id: account.label
                for connector in known
                for account in find_accounts(conn, connector.source_app, None)
            }
            for user_id, label in sorted(users.items(), key=lambda user: user[1]):
                with acting_as(conn, user_id):
                    rows += [
                        {"user": label, "source": source, "recordings": count}
                        for source, count in count_recordings(conn, user_id).items()
                    ]
        frame = pd.DataFrame(rows, columns=["user", "source", "recordings"])
        table = frame.pivot_table(index="user", columns="source", values="recordings", fill_value=0, aggfunc="sum")
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": int(frame["recordings"].sum()),
                "counts": dg.MetadataValue.md(table.to_markdown() if rows else "No recordings yet."),
            }
        )

    return import_counts
