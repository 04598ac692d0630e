"""Loading what is heavy, such as Dagster, without looking for garbage meanwhile.

Loading makes objects by the hundred thousand and none to be collected. Python looks among them again and again, the
last time when the process ends, and that took a fifth of all processor time of a short import.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Look for no garbage meanwhile; what is there at the end stays for good, and nobody looks at it later either."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
