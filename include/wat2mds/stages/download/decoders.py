"""A decoder in a process of its own, with a memory limit and a time limit, and another one in its place when it dies.

In: bytes from the web. Out: a Decoded, or Refused with its drop reason: what kills a decoder costs the one image that it had.
Guaranteed: a decoder has at most ``download.decode_memory`` bytes beyond what it starts with and ``download.decode_timeout`` seconds
an image; it holds no connection and no file of the stage; it ends with the process that asks it. What does not belong here: decoding
(``decode.py``).

Three processes, all forked from one that has imported everything, none of them while threads run (a fork beside threads may copy
a lock that nobody will open again):

    worker ── images, answers ── decoder
       └──── new decoders ── supervisor (the decoder's parent; does nothing but fork and wait)

Answers are JSON and bytes, never pickles: a decoder that a crafted image has taken over can answer nothing but a wrong image.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

import psutil

from wat2mds.drops import DropReason
from wat2mds.errors import TransientError
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.decode import Decoded, Decoder
from wat2mds.stages.download.refusal import Refused

_NEWS_BYTES = 4096
_LENGTHS = struct.Struct("<II")
_PIECE_BYTES = 1 << 20  # what is claimed to come is not made room for beforehand
# What a decoder frees it needs again for the next image: given back to the kernel, it would come as a page fault for every 4 KB.
_KEPT_BYTES, _KEPT_BLOCK_BYTES = 64 << 20, 16 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# The kernel ends a decoder at its time limit. Only one that was stopped lives longer, and is ended from here.
_GRACE_SECONDS = 10.0


class _Channel:
    """Messages of a text and an image over a socket, each written at once."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours

    def send(self, text: bytes, image: bytes) -> None:
        head = _LENGTHS.pack(len(text), len(image))
        sent = self._socket.sendmsg([head, text, image])
        if sent < len(head) + len(text) + len(image):
            self._socket.sendall(memoryview(b"".join((head, text, image)))[sent:])

    def receive(self) -> tuple[bytes, bytes]:
        """Raises EOFError at the end, BlockingIOError where the socket's patience ends."""
        of_text, of_image = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        whole = self._exactly(of_text + of_image)
        return whole[:of_text], whole[of_text:]

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._socket.recv(min(size, _PIECE_BYTES), socket.MSG_WAITALL)
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Decoders:
    """The one decoder of this moment, to be asked from one thread. Made while this process has no other thread."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()  # what is there now is shared by all three; a collection would touch, and so copy, all of it
        self._supervisor = os.fork()
        if self._supervisor == 0:
            _as_child(_supervise, theirs, settings)
        theirs.close()
        self._ended_seconds = self._seconds = 0.0
        self._pipe: _Channel | None = None
        self.pid = 0
        self.replaced = 0
        self._adopt()

    @property
    def cpu_seconds(self) -> float:
        """Of all decoders so far, as of the last answer."""
        return self._ended_seconds + self._seconds

    def decode(self, data: bytes) -> Decoded:
        """Raises Refused for the image, TransientError where there is no decoder any more."""
        if self._pipe is None:
            self._adopt()
        pipe = self._pipe
        assert pipe is not None
        try:
            pipe.send(b"", data)
            text, stored = pipe.receive()
        except BlockingIOError:
            os.kill(self.pid, signal.SIGKILL)
            self._bury()
            raise Refused(DropReason.DECODE_TIMEOUT, _too_slow(self._settings)) from None
        except (EOFError, OSError):
            raise self._death(self._bury()) from None
        answer: dict[str, Any] = json.loads(text)
        self._seconds = answer.pop("seconds")
        if "reason" in answer:
            reason: DropReason = DropReason.__call__(answer["reason"])
            if reason is DropReason.DECODE_MEMORY:  # it has ended itself: what is left of its memory may be in shreds
                self._bury()
            raise Refused(reason, answer["message"], mime=answer["mime"])
        return Decoded(stored, **answer)

    def close(self) -> None:
        """End the decoder and its supervisor."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._supervisor, 0)

    def _adopt(self) -> None:
        try:
            news, descriptors, _, _ = socket.recv_fds(self._control, _NEWS_BYTES, 1)
        except OSError as error:
            raise TransientError(f"no image decoder could be started: {error}") from error
        if not news:
            raise TransientError("no image decoder could be started: out of memory or processes?")
        self.pid = json.loads(news)["pid"]
        patience = struct.pack("ll", int(self._settings.decode_timeout + _GRACE_SECONDS), 0)
        pipe = socket.socket(fileno=descriptors[0])
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self._pipe = _Channel(pipe)
        self._seconds = 0.0

    def _bury(self) -> int:
        """Leave the decoder that is dead; its wait status."""
        assert self._pipe is not None
        self._pipe.close()
        self._pipe = None
        self.replaced += 1
        news = self._control.recv(_NEWS_BYTES)
        if not news:
            raise TransientError("the supervisor of the image decoder was killed; out of memory, if nobody did it")
        ended = json.loads(news)
        self._ended_seconds, self._seconds = self._ended_seconds + ended["seconds"], 0.0
        return int(ended["status"])

    def _death(self, status: int) -> Refused:
        if not os.WIFSIGNALED(status):
            return Refused(DropReason.DECODE_CRASH, f"the decoder ended with exit code {os.WEXITSTATUS(status)}")
        killer = os.WTERMSIG(status)
        if killer == signal.SIGALRM:
            return Refused(DropReason.DECODE_TIMEOUT, _too_slow(self._settings))
        return Refused(DropReason.DECODE_CRASH, f"the decoder was killed by {signal.Signals(killer).name}")


def _too_slow(settings: DownloadSettings) -> str:
    return f"not decoded in {settings.decode_timeout:g} s"


def _as_child(run: Any, *arguments: Any) -> NoReturn:
    """The rest of a forked process's life."""
    try:
        run(*arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(70)
    os._exit(0)


def _supervise(control: socket.socket, settings: DownloadSettings) -> None:
    # The worker's pipes and sockets are not ours: as long as they are open here, nobody would see that the worker ended.
    kept = {0, 1, 2, _log_descriptor(), control.fileno()}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (numbers, no paths)
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    decoder = Decoder(settings)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the worker ended
        while True:
            theirs, ours = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                theirs.close()
                control.close()
                _as_child(_serve, _Channel(ours), decoder, settings)
            ours.close()
            socket.send_fds(control, [json.dumps({"pid": pid}).encode()], [theirs.fileno()])
            theirs.close()
            _, status, usage = os.wait4(pid, 0)
            control.send(json.dumps({"status": status, "seconds": usage.ru_utime + usage.ru_stime}).encode())


def _log_descriptor() -> int:
    """Where this process's log goes, which is not 2 (``workers.py``)."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError):  # a test's
        return 2


def _serve(pipe: _Channel, decoder: Decoder, settings: DownloadSettings) -> None:
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    most = psutil.Process().memory_info().vms + settings.decode_memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a decoder's crash raises ends it, whatever handlers the process had that it was forked from.
    faulthandler.disable()
    for fatal in (signal.SIGALRM, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
        signal.signal(fatal, signal.SIG_DFL)
    # Of all processes of the machine, this is the one to end when memory is short.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 (a device of the kernel's)
        file.write("1000")
    with contextlib.suppress(EOFError, OSError):  # the worker ended
        while True:
            _answer(pipe, decoder, pipe.receive()[1], settings.decode_timeout)


def _answer(pipe: _Channel, decoder: Decoder, data: bytes, seconds: float) -> None:
    stored = b""
    answer: dict[str, Any]
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        done = decoder(data)
        answer = {name: value for name, value in vars(done).items() if name != "stored"}
        stored = done.stored
    except Refused as refused:
        answer = {"reason": str(refused.reason), "message": str(refused), "mime": refused.mime}
    signal.setitimer(signal.ITIMER_REAL, 0)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    answer["seconds"] = usage.ru_utime + usage.ru_stime
    pipe.send(json.dumps(answer).encode(), stored)
    if answer.get("reason") == DropReason.DECODE_MEMORY:
        os._exit(0)
