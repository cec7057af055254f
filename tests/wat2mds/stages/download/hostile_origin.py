"""A hostile origin on real sockets, and pictures for it to serve."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

Behaviour = Callable[[socket.socket, str], None]


class HostileOrigin:
    """Answers each connection's first request with whatever its path's behaviour does to the socket, then closes."""

    def __init__(self) -> None:
        self.behaviours: dict[str, Behaviour] = {}
        self.otherwise: Behaviour = not_found
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(65536)
                if not received:
                    return
                request += received
            text = request.decode("latin-1")
            self.requests.append(text)
            path = text.split(" ", 2)[1]
            self.behaviours.get(path, self.otherwise)(connection, text)


def reply(status: str, headers: Sequence[str] = (), body: bytes = b"") -> Behaviour:
    """One complete answer."""
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    return lambda connection, _: connection.sendall(head.encode() + body)


not_found = reply("404 Not Found")


def picture(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    """Noise, so that even a small picture is above 5,000 bytes."""
    pixels = np.random.default_rng(width * 10007 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()
