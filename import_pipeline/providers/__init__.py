"""Asking a provider: HTTP with retries and deadlines, rate budgets, credentials, OAuth, JSON, settings of a source.

Nothing here knows a particular provider; those are in `connectors/`. Budgets and credentials are kept in the database,
so this room knows `database/` besides `records` and `errors`, and the bounds of JSON in `transcripts/`.
"""
