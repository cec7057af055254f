"""What a search service is told when it starts.

In: the command line. Out: ``Options``. What does not belong here: what it serves.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """``token``: who sends it may save subsets and report images; empty: nobody. ``hosts``: names by which the service may be called,
    none for any; they keep a foreign page from reaching it under a name of its own (DNS rebinding). ``max_body``: bytes of a request;
    ``max_pixels``: of an image that is sent; ``rate``: requests a second that a client may make, ``burst`` at once; a stored image counts
    as a tenth. ``body_seconds``: in which a request's body must have arrived."""

    token: str = ""
    hosts: tuple[str, ...] = LOOPBACK
    max_body: int = 10 << 20
    max_pixels: int = 25_000_000
    rate: float = 20.0
    burst: float = 100.0
    body_seconds: float = 30.0
