"""A listing that comes in pages: read to its end, begun anew when a token has run out, and left when it has no end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from import_pipeline.errors import HttpError, SourceUnavailableError
from import_pipeline.providers.http.answers import digest
from import_pipeline.records import JsonObject

MAX_RESTARTS = 3
MAX_PAGES_WITHOUT_NEWS = 20
"""So many pages in a row that differ from earlier ones in nothing but their token: the listing has no end."""


def read_pages(
    get_page: Callable[[Mapping[str, Any]], JsonObject],
    title: str,
    params: Mapping[str, Any],
    cursor: str,
    next_cursor: str,
) -> Iterator[JsonObject]:
    """Yield every page; see `HttpClient.pages`.

    Args:
        get_page: Asks with these parameters.
        title: What people call the source.
        params: Repeated unchanged with every page.
        cursor: The query parameter that asks for the next page.
        next_cursor: The field of an answer that holds its value.
    """
    restarts = stale = 0
    token: str | None = None
    seen: set[str] = set()
    contents: set[int] = set()
    while True:
        try:
            page = get_page({**params, cursor: token})
        except HttpError as error:
            if token is None or error.status != 400:
                raise
            if restarts == MAX_RESTARTS:
                raise SourceUnavailableError(f"The listing expires again and again: {error}") from None
            restarts, token, seen = restarts + 1, None, set()
            continue
        content = digest({name: value for name, value in page.items() if name != next_cursor})
        stale = stale + 1 if content in contents else 0
        contents.add(content)
        yield page
        token = page.get(next_cursor) or None
        if token is None:
            return
        token = str(token)
        if token in seen or stale == MAX_PAGES_WITHOUT_NEWS:
            raise SourceUnavailableError(f"The listing of {title} leads in a circle: it repeats itself.")
        seen.add(token)
