"""One module or folder per source, and `base`, the contract they follow; what is found here needs no registration.

A connector says what to ask and what the answers mean. It knows `providers/` and `transcripts/`, and neither the
database nor Dagster. `CONTRIBUTING.md` shows how to write one.
"""
