"""What takes minutes: an import killed at ten random moments, and a large folder in bounded memory."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from commands import VTT, CommandLine, end

from import_pipeline.database.embedded import open_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

GOOD, BROKEN, KILLS = 1950, 50, 10
FOLDER_BYTES = 1_000_000_000
MEMORY_LIMIT_BYTES = 500_000_000
SEED = 20261122

INVARIANTS = """
select
    (select count(*) from public.recordings) as recordings,
    (select count(*) from public.vault_entries) as entries,
    (
        select count(*) from (
            select from public.recordings
            group by owner_user_id, source_app, source_metadata ->> 'external_id' having count(*) > 1
        ) as repeated
    ) as duplicates,
    (
        select count(*) from public.recordings
        where not exists (select from public.vault_entries where recording_id = recordings.id)
    ) as orphans,
    (select count(*) from public.import_items where status = 'imported' and recording_id is not null) as imported,
    (select count(*) from public.import_items where status = 'failed') as failed,
    (select count(*) from public.import_items where status not in ('imported', 'failed')) as other,
    (select count(*) from public.sync_jobs where status = 'processing') as processing
"""


def write_mixed_folder(folder: Path) -> None:
    def text(position: int) -> str:
        return f"This is call number {position}, about something else than the others."

    def srt(position: int) -> str:
        return f"1\n00:00:01,000 --> 00:00:04,000\nDana: {text(position)}\n"

    def otter(position: int) -> str:
        return f"Dana Reyes  0:03\n{text(position)}\n\nOmar Lindqvist  0:15\nYes.\n"

    def whisper(position: int) -> str:
        return json.dumps({"text": "", "segments": [{"id": 0, "start": 0.0, "end": 3.2, "text": text(position)}]})

    def vtt(position: int) -> str:
        return VTT.format(text=text(position))

    makers = [(".vtt", vtt), (".srt", srt), (".txt", otter), (".json", whisper)]
    damaged = [
        ("empty.vtt", b""),
        ("binary.txt", bytes(range(256)) * 8),
        ("cut off.json", b'{"segments":[{"start":0'),
        ("page.vtt", b"<!DOCTYPE html><html><body>Sign in</body></html>"),
        ("unknown.xyz", b"Dana: hello"),
    ]
    for position in range(GOOD):
        suffix, make = makers[position % len(makers)]
        path = folder / f"folder {position % 20}" / f"call {position}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(position))
    for position in range(BROKEN):
        name, content = damaged[position % len(damaged)]
        (folder / f"folder {position % 20}" / f"{position} {name}").write_bytes(content)


def look(home: Path) -> dict[str, Any]:
    with open_server(home) as server, psycopg.connect(server.url()) as conn:
        cursor = conn.execute(INVARIANTS)
        row = cursor.fetchone()
        assert row is not None
        assert cursor.description is not None
        return dict(zip((column.name for column in cursor.description), row, strict=True))


def test_an_import_killed_at_ten_random_moments_ends_with_everything_exactly_once(tmp_path: Path) -> None:
    write_mixed_folder(tmp_path / "calls")
    command_line = CommandLine(tmp_path / "home")
    moments = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    for _ in range(KILLS):
        process = command_line.start("upload", tmp_path / "calls")
        time.sleep(moments.uniform(0.5, 9))
        if process.poll() is None:
            end(process, signal.SIGKILL)
    last = command_line.run("upload", tmp_path / "calls", "--json", timeout=300)
    assert last.code == 1
    assert (last.json["listed"], last.json["failed"]) == (GOOD + BROKEN, BROKEN)
    assert look(command_line.home) == {
        "recordings": GOOD,
        "entries": GOOD,
        "duplicates": 0,
        "orphans": 0,
        "imported": GOOD,
        "failed": BROKEN,
        "other": 0,
        "processing": 0,
    }
    again = command_line.run("upload", tmp_path / "calls", "--json")
    assert (again.json["inserted"], again.json["skipped"], again.json["failed"]) == (0, GOOD, BROKEN)


def test_a_large_folder_is_imported_in_bounded_memory(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    cue = (
        "{n}\n{h:02d}:{m:02d}:{s:02d}.000 --> {h:02d}:{m:02d}:{s:02d}.900\nDana Reyes: What was said at second {n}.\n\n"
    )
    cues = [cue.format(n=n, h=n // 3600, m=n // 60 % 60, s=n % 60) for n in range(300_000)]
    written = number = 0
    for length in (300_000, 20_000, 60_000, 120_000, 5_000) * 100:
        if written >= FOLDER_BYTES:
            break
        content = f"WEBVTT\n\nNOTE number {number}\n\n" + "".join(cues[:length])
        (folder / f"call {number}.vtt").write_text(content.replace("second 1.", f"number {number}."))
        written += len(content)
        number += 1
    command_line = CommandLine(tmp_path / "home")
    process = command_line.start("upload", folder, "--json")
    peak = watch_memory(process)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["inserted"] == number
    assert peak < MEMORY_LIMIT_BYTES, f"{peak / 1e6:.0f} MB"


def watch_memory(process: subprocess.Popen[str]) -> int:
    """Return the highest sum of resident memory of a process and its children, PostgreSQL left out, in bytes."""
    peak = 0
    while process.poll() is None:
        total = 0
        try:
            for each in (parent := psutil.Process(process.pid), *parent.children(recursive=True)):
                if "postgres" not in each.name():
                    total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, total)
        time.sleep(0.05)
    return peak
