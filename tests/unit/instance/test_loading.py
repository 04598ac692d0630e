"""Loading what is heavy: Python's collector rests meanwhile, and works again afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from import_pipeline.instance.loading import loading

WITHOUT_DEFINITIONS = """
import runpy, sys
sys.modules["import_pipeline.definitions"] = None
sys.argv[1:] = ["api", "--help"]
runpy.run_module("import_pipeline.instance.run_process", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_garbage_is_collected_again_after_loading() -> None:
    with loading():
        assert not gc.isenabled()
        made: list[list[int]] = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(made)


def test_garbage_is_collected_again_when_loading_fails() -> None:
    with pytest.raises(ModuleNotFoundError), loading():
        raise ModuleNotFoundError
    assert gc.isenabled()


def test_the_process_of_a_run_leaves_it_to_dagster_to_tell_that_definitions_cannot_be_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DEFINITIONS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "execute_run" in done.stdout
    assert "resume_run" in done.stdout
