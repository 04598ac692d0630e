"""The five stages in their order, one file each, the closing report, and what ops stand on.

    connect → fetch ⇒ [ dedup → transform → insert ] per batch → report

Ops are thin: the work is in plain functions beside them; `graph` wires them. `postgres` and `staging` are their
resource and I/O manager. The first room that knows Dagster; it knows `pipeline`, `library/` and everything below.
"""
