"""Loading what is heavy, such as Dagster, without garbage collection.

Loading makes objects by the hundred thousand and none to be collected. Python looks among them again and again, the
last time when the process ends, and that took a fifth of all processor time of a short import.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Disable garbage collection in the block, then freeze all objects that exist."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
