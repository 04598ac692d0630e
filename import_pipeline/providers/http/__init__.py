"""Asking a provider: one client per account and run, on httpx.

What every request gets here: the credential, a place in the rate budget, deadlines, retries with full jitter, the
provider's demands for silence, a bounded answer, and an error of the right class. A connector only says what to ask.
Nothing here logs: an address may hold a key, an answer a transcript.
"""

import logging

from import_pipeline.providers.http.client import HttpClient
from import_pipeline.providers.http.contract import Budget, Credential
from import_pipeline.providers.http.listing import MAX_PAGES_WITHOUT_NEWS

__all__ = ["MAX_PAGES_WITHOUT_NEWS", "Budget", "Credential", "HttpClient"]

# They would write addresses and headers to the log, and some hold a key. A level could be set by anybody.
for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks"):
    logging.getLogger(_name).addFilter(lambda _: False)
