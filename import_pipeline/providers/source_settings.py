"""Settings of a source from the environment: `IMPORT_PIPELINE_<SOURCE>_<NAME>`, such as `IMPORT_PIPELINE_ZOOM_URL`.

Every address and limit of a provider can be replaced, so that a proxy or a fake can be put in its place. Read when a
run needs them, never at import.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from urllib.parse import urlsplit

from import_pipeline.errors import ConfigurationError


def source_setting(source_app: str, name: str, default: str = "") -> str:
    """Return a setting of a source, or the default where it is unset or empty."""
    return os.environ.get(setting_name(source_app, name), "").strip() or default


def setting_name(source_app: str, name: str) -> str:
    """Return the variable that holds a setting of a source."""
    return f"IMPORT_PIPELINE_{source_app}_{name}".upper().replace("-", "_")


def source_url(source_app: str, default: str, name: str = "URL") -> str:
    """Return an address of a source without a slash at its end.

    Raises:
        ConfigurationError: What is set is no address.
    """
    url = source_setting(source_app, name, default).rstrip("/")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{setting_name(source_app, name)} must be an address such as https://api.example.com/v1."
        )
    return url


def history_start(source_app: str, default: datetime) -> datetime:
    """Return the day before which nothing is asked of a source.

    Raises:
        ConfigurationError: What is set is no date.
    """
    text = source_setting(source_app, "HISTORY_START")
    try:
        start = datetime.fromisoformat(text) if text else default
        return start if start.tzinfo else start.replace(tzinfo=UTC)
    except ValueError:
        name = setting_name(source_app, "HISTORY_START")
        raise ConfigurationError(f"{name} must be a date such as 2024-01-31, not {text!r}.") from None


def number_setting(name: str, default: float, *, at_least: float = 0) -> float:
    """Return a number from the environment.

    Raises:
        ConfigurationError: It is no number, too small, or a million or more.
    """
    text = os.environ.get(name, "").strip() or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not at_least <= value < 1e6:
        raise ConfigurationError(f"{name} must be a number from {at_least:g} to a million, not {text!r}.")
    return value
