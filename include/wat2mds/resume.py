"""A file on a server as a stream that goes on where it broke off.

In: an address, the file's size and tag, the byte to begin at. Out: its bytes from there to the end, in pieces. Guaranteed: they are of
one state of the file, as many as were stated, whatever breaks off in between; after a failure a server is asked at most once a second,
and not before the time that its Retry-After names; what fails for good is a TransientError that says how far it came. What does not
belong here: where the bytes go (``source.py``).

Where the server does not serve ranges the file is read again from its start, and what is known is skipped. Common Crawl answers 403, 429
or 503 to who asks too much (commoncrawl.org/blog, "Oct/Nov 2023 Performance Issues"): all three are asked again, later.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.store import Store, split

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
LEAST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
MOST_WAITING = 300.0  # seconds without a byte; longer is the scheduler's business
MOST_RETRIES = 1000  # of one stream, progress or not: as many as Common Crawl's own downloader makes
CONNECT_SECONDS, READ_SECONDS = 20.0, 60.0  # a server that sends nothing for that long has stalled
_Answer = TypeVar("_Answer")
_PIECE = 8 << 20  # of an object in a store, asked for by range
_SLOW_DOWN = {403, 429, 503}
_LATER = _SLOW_DOWN | {408, 425}


class Clock:
    """Seconds that pass, and a way to let them pass."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


clock = Clock()


class BrokenOff(Exception):
    """One request failed; the next one may not. ``pause``: seconds that the server asks for."""

    def __init__(self, why: str, pause: float = 0.0, slow_down: bool = False) -> None:
        super().__init__(why)
        self.pause = pause
        self.slow_down = slow_down


class Patience:
    """The pauses between requests for one file: they double while nothing comes, and begin anew with progress."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._retries = 0
        self.progress()

    def progress(self) -> None:
        self._pause = LEAST_PAUSE
        self._since = clock.now()

    def wait(self, failed: BrokenOff, position: int) -> None:
        """Let the time pass until the next request. Raises TransientError where that would be too long."""
        pause = max(self._pause, failed.pause)
        waited = clock.now() - self._since
        if waited + pause > MOST_WAITING or self._retries >= MOST_RETRIES:
            asked = f"; the server asks to wait {failed.pause:,.0f} s" if failed.pause > LONGEST_PAUSE else ""
            what = (
                "The server wants to be asked less (403, 429 and 503 mean that at Common Crawl): let fewer tasks run at once, or try later"
                if failed.slow_down
                else "Try again later; if it stays so, look whether the address can be reached from this machine"
            )
            raise TransientError(
                f"{self._url}: {failed}, after {position:,} bytes, {self._retries} retries and {waited:,.0f} s without another byte"
                f"{asked}. {what}"
            )
        log.warning("%s: %s at %s bytes; asking again in %.0f s", self._url, failed, f"{position:,}", pause)
        clock.sleep(pause)
        self._retries += 1
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def client(token: str = "") -> httpx.Client:
    """A client for files: bytes as they are stored, redirects followed."""
    import httpx

    # httpx takes the authorization away from a redirect to another host: a hub's signed addresses need none.
    headers = {"User-Agent": "wat2mds", "Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    limits = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    return httpx.Client(follow_redirects=True, timeout=limits, headers=headers, verify=_tls())


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients of the process: loading the authorities takes longer than asking a near server for a short list."""
    import httpx

    return httpx.create_ssl_context()


def look(url: str, token: str = "", access: str = "") -> tuple[int | None, str, list[str]]:
    """Size and tag of a file on a web server, and the X-Linked-Etag of each answer on the way to it.

    The tag is its ETag, else its Last-Modified, else empty. ``access``: what to do where access is denied, for a server whose 403 means
    that. Raises DataError where there is no such file, ConfigError where access is denied, TransientError.
    """
    import httpx

    def ask() -> tuple[int | None, str, list[str]]:
        try:
            # The first byte only: some servers answer HEAD wrongly, and addresses signed for GET refuse it.
            with web.stream("GET", url, headers={"Range": "bytes=0-0"}) as answer:
                _require_found(answer, url, access)
                linked = [a.headers.get("x-linked-etag", "").strip('"') for a in (*answer.history, answer)]
                return size_of(answer), tag_of(answer), linked
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url} is no address: {error}") from error
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise BrokenOff(repr(error)) from error

    with client(token) as web:
        return _patiently(url, ask)


def look_in_store(url: str) -> tuple[int, str]:
    """Size and tag of an object in a store. Raises FileNotFoundError, ConfigError, TransientError."""
    store, name = _store_of(url)

    def ask() -> tuple[int, str]:
        try:
            head = store.head(name)
        except TransientError as error:
            raise BrokenOff(str(error)) from error
        return head.size, head.tag.strip('"')

    return _patiently(url, ask)


def _store_of(url: str) -> tuple[Store, str]:
    """The pace is set here, so obstore is not to try again by itself."""
    folder, name = split(url)
    return Store(folder, retry=False), name


def _patiently(url: str, ask: Callable[[], _Answer]) -> _Answer:
    patience = Patience(url)
    while True:
        try:
            return ask()
        except BrokenOff as error:
            patience.wait(error, 0)


def stream(url: str, size: int | None, tag: str, position: int = 0, token: str = "") -> Generator[bytes, None, None]:
    """The bytes from ``position`` to the end. Raises TransientError where they cannot be had or the file has changed, DataError where
    it is gone. Without ``size`` the end is where the server says so."""
    if not url.startswith(("http:", "https:")):
        yield from _whole(_Object(*_store_of(url), size or 0, tag), url, size, position)
        return
    with client(token) as web:
        yield from _whole(_Page(web, url, size, tag), url, size, position)


def _whole(file: _Object | _Page, url: str, size: int | None, position: int) -> Generator[bytes, None, None]:
    patience = Patience(url)
    while size is None or position < size:
        failed = BrokenOff("the answer ended early")
        try:
            with closing(file.read(position)) as pieces:
                for piece in pieces:
                    position += len(piece)
                    if size is not None and position > size:
                        raise TransientError(
                            f"{url}: more than the {size:,} bytes came that were stated. It is read again from the start"
                        )
                    yield piece
                    patience.progress()
            if size is None:
                return
        except BrokenOff as error:
            failed = error
        if size is None or position < size:
            patience.wait(failed, position)


class _Object:
    """An object in a store, a piece a request."""

    def __init__(self, store: Store, name: str, size: int, tag: str) -> None:
        self._store, self._name, self._size, self._tag = store, name, size, tag

    def read(self, position: int) -> Generator[bytes, None, None]:
        while position < self._size:
            end = min(position + _PIECE, self._size)
            try:
                piece = self._store.read_range(self._name, position, end, self._tag)
            except FileNotFoundError as error:
                raise DataError(f"{error}: it was removed while it was read") from error
            except TransientError as error:
                if self._store.head(self._name).tag.strip('"') != self._tag:
                    raise _changed(f"{self._store.url}/{self._name}") from error
                raise BrokenOff(str(error)) from error
            yield piece
            if len(piece) < end - position:
                raise BrokenOff("the answer ended early")
            position = end


class _Page:
    """A file on a web server."""

    def __init__(self, web: httpx.Client, url: str, size: int | None, tag: str) -> None:
        self._web, self._url, self._size, self._tag = web, url, size, tag

    def read(self, position: int) -> Generator[bytes, None, None]:
        import httpx

        headers = {}
        if position:
            headers["Range"] = f"bytes={position}-"
            if self._tag and not self._tag.startswith("W/"):  # RFC 9110, 13.1.5: a weak tag will not do
                headers["If-Range"] = self._tag
        try:
            with self._web.stream("GET", self._url, headers=headers) as answer:
                _require_found(answer, self._url, "")
                if tag_of(answer) != self._tag or (self._size is not None and size_of(answer) not in (None, self._size)):
                    raise _changed(self._url)
                if self._size is None and answer.headers.get("transfer-encoding", "").lower() != "chunked":
                    raise DataError(
                        f"{self._url}: the server neither states a length nor sends chunks, so that a cut would look like the end. "
                        f"Fetch the file by other means and give its path"
                    )
                known = 0
                if answer.status_code == 200:
                    known = position  # no ranges here
                elif _start(answer) != position:
                    raise BrokenOff(f"asked from byte {position:,}, the server sent another part")
                for piece in answer.iter_raw():
                    if known < len(piece):
                        yield piece[known:]
                    known = max(0, known - len(piece))
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise BrokenOff(repr(error)) from error


def _changed(url: str) -> TransientError:
    return TransientError(f"{url} was changed while it was read: the next attempt reads it from the start")


def _require_found(answer: httpx.Response, url: str, access: str) -> None:
    status = answer.status_code
    if status in (200, 206):
        return
    if status == 401 or (status == 403 and access):
        raise ConfigError(f"{url}: access denied ({status}). {access or 'This server wants credentials'}")
    if status in _LATER or status >= 500:
        raise BrokenOff(f"status {status}", _retry_after(answer), status in _SLOW_DOWN)
    if status in (404, 410):
        raise DataError(f"{url} does not exist ({status})")
    if status == 416:
        if size_of(answer) == 0:
            raise DataError(f"{url} is empty")
        raise BrokenOff("status 416: the server has fewer bytes than it stated")
    raise DataError(f"{url} was answered with status {status}: a retry will not help")


def _retry_after(answer: httpx.Response) -> float:
    """Seconds, whether stated so or as a date (RFC 9110, 10.2.3); a date is read by the server's own clock."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    until, now = _date(value), _date(answer.headers.get("date", ""))
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds()) if until else 0.0


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def tag_of(answer: httpx.Response) -> str:
    return str(answer.headers.get("etag") or answer.headers.get("last-modified") or "")


def size_of(answer: httpx.Response) -> int | None:
    """The whole file's size, as Content-Range or Content-Length states it."""
    whole = answer.headers.get("content-range", "").rpartition("/")[2]
    if whole.isdecimal():
        return int(whole)
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdecimal() and answer.status_code == 200 else None


def _start(answer: httpx.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    return int(match[1]) if match else None
