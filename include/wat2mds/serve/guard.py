"""What stands before every request and after every answer: limits, and headers that tell a browser what the page may do.

In: requests as they come. Out: the same, their bodies whole, or a refusal. Guaranteed: no handler sees a request for another host,
from another site's page, beyond a client's rate, or with a body that is too large or does not arrive; every answer has the headers.
What does not belong here: tokens (``changes.py``), limits of single fields (their models).

A page of another site can make a browser send forms, and whatever a form can send, to this service. So what is sent, and not only
read, must come from the service's own page (``Origin``, ``Sec-Fetch-Site``) or from no page at all; and what changes something must
be JSON with the token in a header, which no form can send.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wat2mds.serve.metrics import Metrics
from wat2mds.serve.options import Options

# The page needs its own scripts, styles and images, and blob: for the picture that is about to be sent.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_READS = ("GET", "HEAD", "OPTIONS")
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_MOST_CLIENTS = 10_000
_IMAGE_COST = 0.1


class Refusal(Exception):
    """A request that is not looked at any further."""

    def __init__(self, status: int, why: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.why, self.detail, self.headers = status, why, detail, headers


class Guard:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, options: Options, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics
        self._rates = Rates(options.rate, options.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-cache" if scope["path"].startswith("/page/") else "no-store"
            await send(message)

        try:
            self._check(scope)
            body = await self._whole(scope, receive)
            await self._app(scope, body, answer)
        except Refusal as refusal:
            self._metrics.refused.labels(refusal.why).inc()
            response = JSONResponse({"detail": refusal.detail}, refusal.status, {"Connection": "close", **refusal.headers})
            await response(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, _method(scope), str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._options.hosts and _name(host) not in self._options.hosts:
            raise Refusal(421, "host", "this service is not called so; `wat2mds serve --host-name` adds a name")
        if scope["method"] not in _READS:
            origin, fetched = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
            if (origin is not None and urlsplit(origin).netloc != host) or fetched not in ("same-origin", "none"):
                raise Refusal(403, "site", "sent from the page of another site")
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if scope["path"].startswith("/api/") and kind in _FORM_TYPES:
                raise Refusal(415, "form", "forms are not taken: send JSON, or an image's bytes")
        client = (scope.get("client") or ("",))[0]
        wait = self._rates.wait(client, _IMAGE_COST if scope["path"].startswith("/images/") else 1.0)
        if wait:
            raise Refusal(429, "rate", "too many requests: ask more slowly", **{"Retry-After": str(int(wait) + 1)})

    async def _whole(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read up to the limit before anybody works on it."""
        limit = self._options.max_body
        stated = Headers(scope=scope).get("content-length", "")
        if stated.isdecimal() and int(stated) > limit:
            raise Refusal(413, "size", f"a body of {stated} bytes; at most {limit:,} are taken")
        body = bytearray()
        try:
            async with asyncio.timeout(self._options.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "gone", "the client went away")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limit:
                        raise Refusal(413, "size", f"a body of more than {limit:,} bytes")
        except TimeoutError:
            raise Refusal(408, "slow", f"the body did not arrive in {self._options.body_seconds:g} seconds") from None
        handed = False

        async def replay() -> Message:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return replay


class Rates:
    """A bucket of requests for each client, filled at a rate, of the clients that asked last."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, cost: float) -> float:
        """Take a request out of the client's bucket: 0; or leave it, and say in how many seconds there will be one."""
        now = time.monotonic()
        left, then = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        missing = max(0.0, cost - left)
        self._buckets[client] = (left if missing else left - cost, now)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return missing / self._rate


def _name(host: str) -> str:
    """Without the port: ``[::1]:8070`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in (*_READS, "POST", "PUT", "PATCH", "DELETE") else "other"
