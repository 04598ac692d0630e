"""Settings of a source from the environment: what is understood, and what is refused with the variable's name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from import_pipeline.errors import ConfigurationError
from import_pipeline.providers.rate_budgets import RateLimit, limits_of
from import_pipeline.providers.source_settings import (
    history_start,
    number_setting,
    setting_name,
    source_setting,
    source_url,
)

START = datetime(2020, 1, 1, tzinfo=UTC)
DECLARED = (RateLimit("requests", 60, timedelta(minutes=1)), RateLimit("heavy", 30, timedelta(minutes=1)))


def test_a_source_has_variables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setting_name("my-recorder", "url") == "IMPORT_PIPELINE_MY_RECORDER_URL"
    assert source_setting("my-recorder", "URL", "default") == "default"
    monkeypatch.setenv("IMPORT_PIPELINE_MY_RECORDER_URL", "  ")
    assert source_setting("my-recorder", "URL", "default") == "default"
    monkeypatch.setenv("IMPORT_PIPELINE_MY_RECORDER_URL", " value ")
    assert source_setting("my-recorder", "URL", "default") == "value"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000/v2/", "http://127.0.0.1:8000/v2"),
        ("https://[::1]:8000", "https://[::1]:8000"),
        ("HTTPS://Proxy.example//", "HTTPS://Proxy.example"),
        ("", "https://api.example.com/v1"),
    ],
)
def test_an_address_may_be_replaced(monkeypatch: pytest.MonkeyPatch, text: str, url: str) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_URL", text)
    assert source_url("demo", "https://api.example.com/v1") == url


@pytest.mark.parametrize(
    "text",
    [
        *("api.example.com", "ftp://api.example.com", "https://", "https:///v1", "http://[::1", "http://a:port", "/v1"),
        *(
            "https://api.example.com/v1?key=Canary",
            "https://api.example.com/#x",
            "https://a.example/\x1b",
            "http://a:99999",
        ),
    ],
)
def test_what_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_TOKEN_URL", text)
    with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_DEMO_TOKEN_URL must be an address") as caught:
        source_url("demo", "https://api.example.com", "TOKEN_URL")
    assert "Canary" not in str(caught.value)


def test_the_start_of_history_may_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert history_start("demo", START) == START
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_HISTORY_START", "2024-01-31")
    assert history_start("demo", START) == datetime(2024, 1, 31, tzinfo=UTC)
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_HISTORY_START", "2024-01-31T00:00:00+02:00")
    assert history_start("demo", START) == datetime(2024, 1, 31, tzinfo=timezone(timedelta(hours=2)))
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_HISTORY_START", "last year")
    with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_DEMO_HISTORY_START must be a date"):
        history_start("demo", START)


def test_a_number_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, value in (("", 20), (" ", 20), ("0", 0), (" 2.5 ", 2.5), ("999999", 999999)):
        monkeypatch.setenv("IMPORT_PIPELINE_TIMEOUT", text)
        assert number_setting("IMPORT_PIPELINE_TIMEOUT", 20) == value
    for text in ("-1", "1e6", "nan", "inf", "-inf", "many", "1,5"):
        monkeypatch.setenv("IMPORT_PIPELINE_TIMEOUT", text)
        with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_TIMEOUT must be a number from 0"):
            number_setting("IMPORT_PIPELINE_TIMEOUT", 20)
    monkeypatch.setenv("IMPORT_PIPELINE_TIMEOUT", "0")
    with pytest.raises(ConfigurationError, match=r"from 0\.01"):
        number_setting("IMPORT_PIPELINE_TIMEOUT", 20, at_least=0.01)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", {"requests": (60, 60.0), "heavy": (30, 60.0)}),
        ("none", {}),
        ("10/1s", {"requests": (10, 1.0), "heavy": (10, 1.0)}),
        ("10/0.5", {"requests": (10, 0.5), "heavy": (10, 0.5)}),
        ("heavy=5/60s", {"requests": (60, 60.0), "heavy": (5, 60.0)}),
        (" requests=600/60s , heavy=5/1s ", {"requests": (600, 60.0), "heavy": (5, 1.0)}),
        ("heavy = 5 / 60s", {"requests": (60, 60.0), "heavy": (5, 60.0)}),
    ],
)
def test_limits_may_be_replaced(
    monkeypatch: pytest.MonkeyPatch, text: str, limits: dict[str, tuple[int, float]]
) -> None:
    """F46."""
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_RATE_LIMITS", text)
    found = limits_of("demo", DECLARED)
    assert {limit.name: (limit.requests, limit.per.total_seconds()) for limit in found} == limits


def test_a_source_without_limits_can_be_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_RATE_LIMITS", "7/1s")
    assert limits_of("demo", ()) == (RateLimit("requests", 7, timedelta(seconds=1)),)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "60",
            "60/",
            "/60s",
            "0/60s",
            "-1/60s",
            "60/0s",
            "60/-1",
            "60/nan",
            "60/inf",
            "60/1e300",
            "60/1e-9",
            "1.5/60s",
        ),
        *("99999999999/60s", "other=60/60s", "60/60s,", ",", "requests=", "60/60m", "60/60/60", "none,none"),
    ],
)
def test_what_is_no_limit_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_RATE_LIMITS", text)
    with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_DEMO_RATE_LIMITS must look like `60/60s`"):
        limits_of("demo", DECLARED)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20))
def test_any_text_is_a_limit_or_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DEMO_RATE_LIMITS", text)
    try:
        assert all(limit.per > timedelta(0) and limit.requests > 0 for limit in limits_of("demo", DECLARED))
    except ConfigurationError:
        return
