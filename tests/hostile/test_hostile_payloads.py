"""One odd call among ten, at every source: its neighbours are imported, and it is too, or fails with a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from connectors.conformance import REST, SECRET_KEY, Target, World, edit_listing, usual
from fakes.server import Request, Response
from hostile.attacks import SAMPLES, odd_fields, spoilt_bytes, spoilt_json
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from import_pipeline.library.normalise import LONGEST_TITLE

NEIGHBOURS = 9
TITLES = {"fathom": "title", "zoom": "topic", "youtube": "snippet.title"}
CLASSES = {"data", "permanent", "transient"}
FUZZ = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@pytest.fixture
def world(pool: ConnectionPool[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("import_pipeline.providers.http.attempts._JITTER", lambda _: 0.001)
    monkeypatch.setattr("import_pipeline.providers.http.client.MAX_ATTEMPTS", 2)
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", SECRET_KEY)
    with closing(World(pool.conninfo, pool, tmp_path, monkeypatch)) as world:
        yield world


each = pytest.mark.parametrize("target", usual(REST), ids=str)


def odd_ones(server: Any, number: int = 1) -> list[Any]:
    """Return the calls that are to be odd: every second one, or the one in the middle."""
    calls = sorted(server.calls, key=lambda call: call.started_at)
    return calls[1 : 2 * number : 2] if number > 1 else [calls[len(calls) // 2]]


def check_neighbours(world: World, target: Target, server: Any, odd: list[Any]) -> dict[str, str]:
    """Sync, check that all other calls are imported and nothing is our mistake, and return what became of these."""
    ana = world.connect(target, server)
    synced = world.sync(ana)
    assert synced.broken is None
    assert synced.problem is None
    statuses = world.statuses(ana)
    neighbours = {server.external_id(call) for call in server.calls if call not in odd}
    assert len(neighbours) >= NEIGHBOURS
    assert {key: statuses.get(key) for key in neighbours} == dict.fromkeys(neighbours, "imported")
    others = {key: status for key, status in statuses.items() if key not in neighbours}
    for status in others.values():
        word, _, error_class = status.partition("/")
        assert word in ("imported", "waiting", "ignored") or error_class in CLASSES, others
    for row in world.recordings(ana).values():
        assert row["full_transcript"].strip()
        assert len(row["title"]) <= LONGEST_TITLE
    return others


@pytest.mark.long
@each
@FUZZ
@given(data=st.data())
def test_a_listed_call_of_any_other_shape_harms_no_neighbour(target: Target, world: World, data: st.DataObject) -> None:
    server = world.start(target, NEIGHBOURS + 1)
    (odd,) = odd_ones(server)
    listed: list[Any] = []
    edit_listing(server, target.source, lambda entries: listed.extend(entries) or entries)
    world.sync(world.connect(target, server))
    mark = json.dumps(server.external_id(odd))[1:-1]
    sound = [entry for entry in listed if mark in json.dumps(entry)]
    assert sound
    spoilt = {json.dumps(entry): data.draw(spoilt_json(entry)) for entry in sound}
    edit_listing(server, target.source, lambda entries: [spoilt.get(json.dumps(entry), entry) for entry in entries])
    check_neighbours(world, target, server, [odd])


@pytest.mark.long
@each
@FUZZ
@given(data=st.data())
def test_any_value_in_any_field_harms_no_neighbour(target: Target, world: World, data: st.DataObject) -> None:
    server = world.start(target, NEIGHBOURS + 1)
    (odd,) = odd_ones(server)
    paths = [path for path in target.source.fields if not target.source.id_path.startswith(path)]
    changes = data.draw(st.dictionaries(st.sampled_from(paths), odd_fields, min_size=1, max_size=4))
    server.mutate[server.external_id(odd)] = changes
    check_neighbours(world, target, server, [odd])


ODD_JSON = {
    "1e400": b"1e400",
    "5,000 digits": b"9" * 5_000,
    "minus 5,000 digits": b"-" + b"9" * 5_000,
    "Infinity": b"-Infinity",
    "NaN": b"NaN",
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "invalid UTF-8": b'"caf\xe9 \xff\xfe \xed\xa0\x80 \xf0\x9f"',
    "NUL": rb'"a\u0000b"',
    "halves of characters": rb'"\ud800 \udfff \udc00\ud800"',
    "8 MB": b'"' + b"x" * 8_000_000 + b'"',
    "controls": rb'"\u001b]52;c;x\u0007 \u202e \u009b31m"',
    "twice": b'"a", "title": "b", "topic": 7',
}


@each
def test_json_that_is_hard_to_read_harms_no_neighbour(world: World, target: Target) -> None:
    server = world.start(target, 2 * len(ODD_JSON) + NEIGHBOURS)
    odd = odd_ones(server, len(ODD_JSON))
    path, answer = TITLES[target.connector.source_app], server.answer
    for number, call in enumerate(odd):
        server.mutate[server.external_id(call)] = {path: f"odd {number:02}"}

    def answering(request: Request, marked: Any, match: Any) -> Response:
        response: Response = answer(request, marked, match)
        if response.status == 200 and re.search(target.source.listing, request.target):
            for number, odd_json in enumerate(ODD_JSON.values()):
                response.body = response.body.replace(b'"odd %02d"' % number, odd_json)
        return response

    server.answer = answering
    others = check_neighbours(world, target, server, odd)
    assert len(others) == len(ODD_JSON)
    assert sum(status == "imported" for status in others.values()) >= 5, "Texts are cleaned and cut."


IDS = {
    "up": "../../../users/me",
    "line ends": "a\r\nX-Injected: 1\r\n\r\n",
    "query": "1?include=all&x=#fragment",
    "percent": "%2e%2e%2f%00%0d%0a",
    "turned": "abc\u202efed\u2066",
    "absolute": "//evil.example/x",
    "host": "@evil.example:80/x",
    "quotes": "'; drop table recordings; --",
    "spaces": "  a  ",
    "long": "9" * 513,
    "longer": "é" * 100_000,
    "NUL": "a\0b",
    "half": "a\ud800",
    "dots": "..",
}


@each
def test_no_id_leads_elsewhere_or_harms_a_neighbour(world: World, target: Target) -> None:
    server = world.start(target, 2 * len(IDS) + NEIGHBOURS)
    odd = odd_ones(server, len(IDS))
    renamed = {server.external_id(call): external_id for call, external_id in zip(odd, IDS.values(), strict=True)}
    *holders, name = target.source.id_path.split(".")

    def rename(listed: list[Any]) -> list[Any]:
        for entry in listed:
            holder = entry
            for each in holders:
                holder = holder.get(each, {})
            if str(holder.get(name)) in renamed:
                holder[name] = renamed[str(holder[name])]
        return listed

    edit_listing(server, target.source, rename)
    others = check_neighbours(world, target, server, odd)
    assert len(others) == len(IDS)
    for request in server.requests:
        assert "x-injected" not in request.headers
        assert "/../" not in request.path


@pytest.mark.long
@each
@FUZZ
@given(data=st.data())
def test_content_however_spoilt_harms_no_neighbour(target: Target, world: World, data: st.DataObject) -> None:
    server = world.start(target, NEIGHBOURS + 1)
    (odd,) = odd_ones(server)
    pattern, sound = re.compile(target.source.content(server, odd)), list[bytes]()
    answer = server.answer

    def answering(request: Request, marked: Any, match: Any) -> Response:
        response: Response = answer(request, marked, match)
        if response.status == 200 and pattern.search(request.target):
            sound.append(response.body)
            response.body = spoilt.get(response.body, response.body)
        return response

    spoilt: dict[bytes, bytes] = {}
    server.answer = answering
    server.mutate[server.external_id(odd)] = {"transcript": None}  # where a page has it, it is asked for by itself
    world.sync(world.connect(target, server))
    others = [path.read_bytes() for path in SAMPLES if path.suffix != ".docx"]
    spoilt |= {body: data.draw(spoilt_bytes([body, body, *others])) for body in dict.fromkeys(sound)}
    check_neighbours(world, target, server, [odd])


@pytest.mark.parametrize("link", ["http://[", "//[", "file:///etc/passwd", "https://a\ud800/", "http://a。b‥c/", " "])
def test_a_link_that_leads_nowhere_harms_no_neighbour(world: World, link: str) -> None:
    (target,) = (each for each in usual(REST) if each.connector.source_app == "zoom")
    server = world.start(target, NEIGHBOURS + 1)
    (odd,) = odd_ones(server)
    server.mutate[server.external_id(odd)] = {"recording_files.*.download_url": link}
    check_neighbours(world, target, server, [odd])


@pytest.mark.parametrize("target", [each for each in usual(REST) if "share_url" in each.source.fields], ids=str)
def test_a_script_in_the_place_of_a_link_is_left_out_and_noted(world: World, target: Target) -> None:
    """Attack A11."""
    server = world.start(target, 2)
    odd = server.external_id(server.calls[0])
    server.mutate[odd] = dict.fromkeys(("share_url", "url"), "JaVaScript:alert(document.cookie)")
    ana = world.connect(target, server)
    world.sync(ana)
    rows = world.recordings(ana)
    assert (rows[odd]["video_url"], rows[odd]["source_metadata"]["share_link"]) == (None, None)
    assert rows[odd]["source_metadata"]["import_notes"]["video_url"] == "not an http or https address, left out"
    assert "alert" not in json.dumps([{**row, "full_transcript": ""} for row in rows.values()], default=str)
    assert "alert" not in json.dumps(world.rows("select location from import_items where user_id = %s", ana.user.id))
    assert sum(bool(row["video_url"]) for row in rows.values()) == 1
