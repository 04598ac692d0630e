"""Reading fields of a provider's JSON: what is missing is nothing, what has changed its type is an error."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from fakes import WRONG_VALUES
from hypothesis import given
from hypothesis import strategies as st

from import_pipeline.errors import ItemError
from import_pipeline.providers.fields import (
    clock_seconds,
    get_id,
    get_instant,
    get_list,
    get_number,
    get_object,
    get_text,
    iso_duration_seconds,
    peek,
)

READERS: dict[Any, tuple[set[str], Any]] = {
    get_text: ({"str", "empty"}, None),
    get_number: ({"int", "float", "empty"}, None),
    get_instant: ({"empty"}, None),
    get_list: ({"list"}, []),
    get_object: ({"dict"}, {}),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_what_is_missing_or_null_is_nothing(reader: Any) -> None:
    _, nothing = READERS[reader]
    for value in ({}, None, {"a": None}, {"a": {}}, {"a": {"b": None}}):
        assert reader(value, "a.b") == nothing


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("name", sorted(set(WRONG_VALUES) - {"null", "absent"}))
def test_another_type_is_an_error_that_names_the_field_and_not_the_value_f47(reader: Any, name: str) -> None:
    accepted, _ = READERS[reader]
    value = {"a": {"b": WRONG_VALUES[name]}}
    if name in accepted:
        reader(value, "a.b")
        return
    with pytest.raises(ItemError, match=r"field 'a\.b'") as raised:
        reader(value, "a.b")
    assert raised.value.error_class == "data"
    assert "expected" not in str(raised.value)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("value", ["text", 7, [1], {"a": "text"}, {"a": [1]}], ids=str)
def test_a_path_through_something_that_is_no_object_is_an_error_f47(reader: Any, value: Any) -> None:
    with pytest.raises(ItemError):
        reader(value, "a.b")


@given(JSON, st.sampled_from(["a", "a.b", "a.b.c"]))
def test_whatever_comes_there_is_a_value_or_an_item_error(value: Any, path: str) -> None:
    peek(value, path)
    assert isinstance(get_id(value, path), str)
    for reader in READERS:
        with suppress(ItemError):
            reader(value, path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(31, 31.0), ("31", 31.0), (" 1.5 ", 1.5), ("", None), (-0.5, -0.5)],
)
def test_numbers_may_be_text(value: Any, expected: float | None) -> None:
    assert get_number({"a": value}, "a") == expected


@pytest.mark.parametrize("value", ["long", "1:30", 10**400, True, "  "])
def test_what_is_no_number_is_an_error(value: Any) -> None:
    with pytest.raises(ItemError):
        get_number({"a": value}, "a")


@pytest.mark.parametrize(
    "text",
    ["2026-03-02T10:00:05Z", "2026-03-02T11:00:05+01:00", "20260302T100005Z", " 2026-03-02T10:00:05.000000+00:00 "],
)
def test_instants_are_in_utc_whatever_their_zone(text: str) -> None:
    assert get_instant({"a": text}, "a") == datetime(2026, 3, 2, 10, 0, 5, tzinfo=UTC)
    assert get_instant({"a": text}, "a").tzinfo is UTC  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text", ["2026-03-02T10:00:05", "2026-03-02", "yesterday", "0001-01-01T00:00:00+12:00", "9999-12-31T23:00:00-05:00"]
)
def test_what_is_no_instant_is_an_error(text: str) -> None:
    with pytest.raises(ItemError, match="'a'"):
        get_instant({"a": text}, "a")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (812, "812"),
        ("812", "812"),
        (0, "0"),
        (2**63, str(2**63)),
        ("", ""),
        (None, ""),
        (1.5, ""),
        (True, ""),
        ([1], ""),
    ],
)
def test_ids_are_text_and_what_is_none_is_empty(value: Any, expected: str) -> None:
    assert get_id({"a": value}, "a") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01:02:03", 3723.0), ("02:03", 123.0), ("00:02:03.5", 123.5), (" 00:00:01 ", 1.0), ("100:00:00", 360_000.0),
        ("75:10", 4510.0), ("", None), (None, None), ("3", None), ("1:2:3:4", None), ("-1:00", None), ("soon", None),
    ],
)  # fmt: skip
def test_clock_times(text: str | None, expected: float | None) -> None:
    assert clock_seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PT1H2M3S", 3723.0), ("P1DT2H", 93_600.0), ("PT45S", 45.0), ("P0D", 0.0), ("P1W", 604_800.0),
        ("PT0.5S", 0.5), ("PT90M", 5400.0), ("", None), (None, None), ("P1Y", None), ("1:30", None), ("PT1S2M", None),
    ],
)  # fmt: skip
def test_iso_durations(text: str | None, expected: float | None) -> None:
    assert iso_duration_seconds(text) == expected
