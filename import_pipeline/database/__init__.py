"""Postgres and nothing above it: opening, connections, SQL files, migrations, roles and claims, audit.

Here stands whatever would be the same for another importer. What the rows of the call library mean is told in
`library/`. `embedded/` is the server that runs when no `DATABASE_URL` is given. Knows `errors` and `records` only.
"""
