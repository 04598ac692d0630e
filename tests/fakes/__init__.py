"""Fake providers over real HTTP: the vendors' shapes, sign-in, paging, limits and errors, and what goes wrong there.

In a test: `with FathomServer(calls=50) as fathom: ...`. By hand: `python -m tests.fakes --help`.
"""

from .calls import Call, Person, Segment, make_calls
from .fathom import FathomServer
from .faults import ALL_KINDS, QUICK_KINDS, Faults, NextFault
from .limits import RateLimit
from .mutations import ABSENT, WRONG_VALUES
from .oauth import Connection, OAuth, Tokens
from .provider import Provider
from .server import FakeServer, RequestRecord
from .youtube import Track, Video, YouTubeServer
from .zoom import MediaServer, ZoomServer

__all__ = [
    "ABSENT",
    "ALL_KINDS",
    "QUICK_KINDS",
    "WRONG_VALUES",
    "Call",
    "Connection",
    "FakeServer",
    "FathomServer",
    "Faults",
    "MediaServer",
    "NextFault",
    "OAuth",
    "Person",
    "Provider",
    "RateLimit",
    "RequestRecord",
    "Segment",
    "Tokens",
    "Track",
    "Video",
    "YouTubeServer",
    "ZoomServer",
    "make_calls",
]
