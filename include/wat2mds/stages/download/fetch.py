"""Safe, polite HTTP for one image: every hop checked, every byte counted, every wait bounded.

In: a URL as found. Out: an Answer (the bytes and the headers), or Refused with its drop reason. Guaranteed: http and https on
allowed ports only; each hop's address is checked and is the one connected to; robots.txt is asked for each hop; each request has a
Permit of its host; at most ``max_redirects`` hops, ``max_bytes`` bytes after inflation, ``deadline`` seconds in all, the waiting for
permits left out. What does not belong here: what the bytes are (``images.py``), when a host may be asked (``hosts.py``, ``turns.py``).

In a world (``download.resolver``) https is spoken as plain HTTP to the origin, with the Host header of the URL; the
header ``X-Forwarded-Proto`` tells which of the two was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead, responses
from pathlib import Path
from ssl import SSLError
from urllib.parse import urljoin

from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError, LocationParseError, ProtocolError
from urllib3.exceptions import TimeoutError as PoolTimeout
from urllib3.util import Url, parse_url

from wat2mds import __version__
from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.identity import DEFAULT_PORTS
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.addresses import Resolver
from wat2mds.stages.download.answers import Headers, Response
from wat2mds.stages.download.connections import Connection, Pool, remaining, within
from wat2mds.stages.download.hosts import Hosts, Permit
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.robots import (
    AGENT,
    MAX_ROBOTS_BYTES,
    obey_robots,
    obey_tdm_rules,
    robots_rules,
    tdm_reserved,
    tdm_rules,
    x_robots_refusal,
)
from wat2mds.stages.download.sites import SiteFiles, SiteStore
from wat2mds.stages.download.turns import Steps, Turn

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BYTES = 1 << 18
# A refusal's body up to this size is read so that the connection can be used again; beyond it a new connection is cheaper.
_DRAIN_BYTES = 1 << 16
_FIRST_PAUSE = 0.5  # seconds before the first retry, doubled for each further one
_SITE_REDIRECTS = 5  # RFC 9309 2.3.1.2: at least five
_MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "AVIF": "image/avif"}


@dataclass(frozen=True)
class Answer:
    """A complete answer. ``short``: the connection ended before the announced length."""

    status: int
    headers: Headers
    body: bytes
    short: bool


def user_agent(contact: str, world: str | None) -> str:
    """``wat2mds/0.1.0 (+contact)``. Raises ConfigError for a crawl of the real web without a contact."""
    if not contact and not world:
        raise ConfigError(
            "a crawl of the real web has to say whom to turn to: set WAT2MDS_CONTACT to a URL or an e-mail address; "
            "it is sent in the User-Agent"
        )
    if not (contact.isascii() and contact.isprintable()) or set(contact) & set("()"):
        raise ConfigError(f"WAT2MDS_CONTACT: {contact!r} cannot be sent in a header: ASCII without parentheses only")
    return f"{AGENT}/{__version__} (+{contact})" if contact else f"{AGENT}/{__version__}"


def status_reason(status: int) -> DropReason:
    """The drop reason of an HTTP status that is no success."""
    if status in (404, 410):
        return DropReason.HTTP_404
    if status in (401, 403, 451):
        return DropReason.HTTP_403
    if status == 408:
        return DropReason.TIMEOUT
    if status == 429:
        return DropReason.HTTP_429
    if 400 <= status < 500:
        return DropReason.HTTP_4XX
    return DropReason.HTTP_5XX if 500 <= status < 600 else DropReason.HTTP_ERROR


class Clock:
    """``left`` seconds for one piece of work, which run while it does, whatever it waits for between; ``wait`` for one read or connect."""

    def __init__(self, seconds: float, wait: float) -> None:
        self.left = seconds
        self._wait = wait

    @contextmanager
    def running(self) -> Iterator[None]:
        """This thread's socket operations end in time."""
        started = time.monotonic()
        try:
            with within(self.left, self._wait):
                yield
        finally:
            self.left -= time.monotonic() - started


class Fetcher:
    """One a process. A fetch is a generator that yields the host that it would ask next and goes on with a Permit for one request."""

    def __init__(self, settings: DownloadSettings, contact: str) -> None:
        """``settings`` with a ``host_folder``."""
        agent = user_agent(contact, settings.resolver)
        self._settings = settings
        self._resolver = Resolver(settings.resolver, settings.threads)
        self._connections = Pool(self._resolver, settings.threads)
        folder = Path(str(settings.host_folder))
        self.hosts = Hosts(folder, settings)
        self._store = SiteStore(folder)
        self._robots = SiteFiles("/robots.txt", robots_rules, self._site_text, self._store, self.hosts)
        self._tdm_files = SiteFiles("/.well-known/tdmrep.json", tdm_rules, self._site_text, self._store, self.hosts)
        wanted = ", ".join(_MIME[name] for name in settings.formats if name in _MIME)
        self._headers = {"User-Agent": agent, "Accept-Encoding": "identity", "Accept": f"{wanted}, */*;q=0.1".lstrip(", ")}

    def image(self, url: str) -> Steps[Answer]:
        """Fetch one image, transient failures tried again within the deadline. Raises Refused."""
        clock = Clock(self._settings.deadline, self._settings.timeout)
        short: Answer | None = None
        failure: Refused | None = None
        pause = 0.0
        for left in range(self._settings.retries, -1, -1):
            try:
                answer = yield from self._follow(url, self._settings.max_redirects, clock, self._settings.max_bytes, pause=pause)
                # A server that announces too much would fail each time: what the last try brought is judged by its bytes.
                if not answer.short or left == 0:
                    return answer
                short = answer
            except Refused as refused:
                if refused.reason is DropReason.HOST_RESTING and short is not None:
                    return short
                if refused.reason is DropReason.HOST_RESTING and failure is not None:
                    raise failure from None  # it was asked, and that is what came of it
                if left == 0 or not refused.at_once or clock.left <= 0:
                    raise
                failure = refused
            pause = pause * 2 or _FIRST_PAUSE
        raise AssertionError("unreachable: the last try returns or raises")

    def _follow(
        self, url: str, hops: int, clock: Clock, most: int, *, pause: float = 0.0, site_file: bool = False
    ) -> Steps[Answer]:
        """GET with redirects, each hop checked as the first. ``site_file``: no rules are asked for, any status is an answer, and bytes
        beyond ``most`` are left."""
        target = _parse(url, DropReason.HTTP_ERROR)
        for hop in range(hops + 1):
            if _port(target) not in self._settings.allowed_ports:
                raise Refused(DropReason.BAD_PORT, f"port {_port(target)} is not among download.allowed_ports")
            try:
                permit = yield Turn(str(target.host), pause)
            except Refused as refused:
                if site_file and hop:  # the site itself was asked, and need not be for each of its images
                    raise Refused(DropReason.ROBOTS_UNAVAILABLE, f"leads to {target.host}: {refused}") from refused
                raise
            pause = 0.0
            with clock.running():  # before anything is asked of the host; the connection takes the same checked addresses
                self._resolver.addresses(str(target.host), _port(target), remaining())
            if not site_file:
                permit = yield from self._obey(target, permit)
            with clock.running(), _counted(permit):
                connection, response = self._request(target, permit)
                permit.answered(response.status, retry_after(response.headers))
                try:
                    location = response.headers.get("Location") if response.status in _REDIRECTS else None
                    if location is None:
                        if not site_file:
                            self._refuse_by_headers(response)
                        return _read(response, most, site_file)
                    _drain(response)
                    target = _parse(location.strip(), DropReason.REDIRECTS, base=target.url)
                finally:
                    if connection.usable(response):
                        self._connections.put_back(connection)
                    else:
                        connection.close()
        raise Refused(DropReason.REDIRECTS, f"more than {hops} redirects", status=response.status)

    def _obey(self, target: Url, permit: Permit) -> Generator[Turn, Permit, Permit]:
        """What the site's files say of the URL, asked for where that is not known. Returns a permit that was not used."""
        authority = f"{target.scheme}://{target.netloc}"
        if self._settings.obey_robots_txt:
            rules = self._robots.known(authority)
            if rules is None:
                rules = yield from self._robots.ask(authority)
                permit = yield Turn(str(target.host))
            obey_robots(rules, target.url)
        if self._settings.obey_tdmrep_file:
            entries = self._tdm_files.known(authority)
            if entries is None:
                entries = yield from self._tdm_files.ask(authority)
                permit = yield Turn(str(target.host))
            obey_tdm_rules(entries, target.url)
        return permit

    def _site_text(self, url: str) -> Generator[Turn, Permit, tuple[int, bytes]]:
        """For SiteFiles, with a deadline of its own: a slow image must not spoil rules for others."""
        clock = Clock(2 * self._settings.timeout, self._settings.timeout)
        try:
            answer = yield from self._follow(url, _SITE_REDIRECTS, clock, MAX_ROBOTS_BYTES, site_file=True)
        except Refused:
            raise
        except Exception as error:  # the answer is kept and must be one
            raise Refused(DropReason.HTTP_ERROR, f"{type(error).__name__}: {error}") from error
        return answer.status, answer.body

    def _request(self, target: Url, permit: Permit) -> tuple[Connection, Response]:
        scheme, host, port = str(target.scheme), str(target.host), _port(target)
        headers = self._headers
        if self._resolver.world is not None:
            headers = headers | {"X-Forwarded-Proto": scheme}
            scheme = "http"
        connection = None
        try:
            permit.asked = True
            connection = self._connections.take(scheme, host, port)
            return connection, connection.get(target.request_uri, _netloc(target), headers)
        except (HTTPException, OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            raise _refused(error) from error
        except Refused:
            if connection is not None:
                connection.close()
            raise

    def _refuse_by_headers(self, response: Response) -> None:
        status, headers = response.status, response.headers
        if status != 200:
            _drain(response)
            phrase = responses.get(status, "")
            raise Refused(status_reason(status), f"HTTP Error {status}: {phrase}", status=status)
        if self._settings.obey_x_robots_tag and x_robots_refusal(headers.getlist("X-Robots-Tag")):
            raise Refused(DropReason.X_ROBOTS, "Use of image disallowed by X-Robots-Tag directive", status=status)
        if self._settings.obey_tdm_reservation and tdm_reserved(headers.getlist("tdm-reservation")):
            raise Refused(DropReason.TDM_RESERVED, "text and data mining reserved by tdm-reservation header", status=status)


def _parse(url: str, otherwise: DropReason, base: str = "") -> Url:
    """A URL as it goes over the wire: percent-encoded, IDNA host, no fragment, no user or password."""
    try:
        parsed = parse_url(urljoin(base, url))
        parsed.request_uri.encode("ascii")
    except (LocationParseError, ValueError) as error:
        raise Refused(otherwise, f"not a URL that can be requested: {error}") from error
    if parsed.scheme not in DEFAULT_PORTS or not parsed.host:
        raise Refused(otherwise, f"not an http or https URL: scheme {parsed.scheme!r}")
    return parsed._replace(auth=None, fragment=None, path=parsed.path or "/")


def _port(target: Url) -> int:
    return target.port if target.port is not None else DEFAULT_PORTS[str(target.scheme)]


def _netloc(target: Url) -> str:
    default = target.port in (None, DEFAULT_PORTS[str(target.scheme)])
    return str(target.host) if default else f"{target.host}:{target.port}"


def retry_after(headers: Headers | Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for, as seconds or as a date (RFC 9110 10.2.3); None where it is not there or makes no sense."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdecimal():
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


@contextmanager
def _counted(permit: Permit) -> Iterator[None]:
    """No or half an answer is a failure of the host."""
    try:
        yield
    except Refused as refused:
        permit.failed = permit.failed or refused.reason in (DropReason.CONNECT, DropReason.TIMEOUT)
        raise


def _read(response: Response, most: int, cut: bool) -> Answer:
    status = response.status
    announced = response.headers.get("Content-Length", "")
    if not cut and announced.isdigit() and int(announced) > most:
        raise Refused(DropReason.TOO_LARGE, f"more than {most} bytes", status=status)
    # Nobody was asked to compress. What is compressed all the same, urllib3 inflates, piece by piece.
    inflated = None
    if response.headers.get("Content-Encoding"):
        inflated = HTTPResponse(response, response.headers.all(), status, preload_content=False, enforce_content_length=False)
    parts: list[bytes] = []
    size = 0
    try:
        while data := response.read(_READ_BYTES) if inflated is None else inflated.read(_READ_BYTES):
            parts.append(data)
            size += len(data)
            if size > most:
                if cut:
                    break
                raise Refused(DropReason.TOO_LARGE, f"more than {most} bytes", status=status)
    except (HTTPError, HTTPException, OSError) as error:
        raise _refused(error, status) from error
    short = size <= most and bool(response.length)
    return Answer(status, response.headers, b"".join(parts)[:most], short)


def _drain(response: Response) -> None:
    """Read a small body that nobody wants, so that the connection can serve again."""
    with suppress(HTTPException, OSError):
        response.read(_DRAIN_BYTES)


def _refused(error: Exception, status: int | None = None) -> Refused:
    """What went wrong on the way, as a drop reason. The cause counts, not the wrapping that urllib3 gives it."""
    causes = [error, *(a for a in error.args if isinstance(a, Exception))]
    if isinstance(error, PoolTimeout) or any(isinstance(c, TimeoutError) for c in causes):
        return Refused(DropReason.TIMEOUT, "timed out", status=status)
    if isinstance(error, SSLError):
        return Refused(DropReason.TLS, f"TLS: {error}"[:300], status=status)
    if any(isinstance(c, OSError | IncompleteRead) for c in causes):
        return Refused(DropReason.CONNECT, "connection closed before the answer was complete", status=status)
    kind = causes[-1] if isinstance(error, ProtocolError) else error
    return Refused(DropReason.HTTP_ERROR, f"not valid HTTP: {type(kind).__name__}", status=status)
