"""Decoders in processes of their own: what kills one costs one image, is counted for what it was, and the next one decodes on."""

from __future__ import annotations

import io
import multiprocessing
import signal
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest
from PIL import Image

from tests.wat2mds.stages.download.hostile_origin import picture
from wat2mds.drops import DropReason
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.decode import Decoded, Decoder
from wat2mds.stages.download.decoders import Decoders
from wat2mds.stages.download.refusal import Refused

SMALL = picture(320, 240)


def endless_scans(side: int = 4000, scans: int = 5000) -> bytes:
    """A valid progressive JPEG whose last scan stands there thousands of times: small to send, minutes to decode."""
    out = io.BytesIO()
    Image.new("L", (side, side), 128).save(out, "JPEG", progressive=True, quality=50)
    data = out.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * scans + data[-2:]


def wide_png(side: int) -> bytes:
    """One colour: some 100 KB that take side² × 3 bytes to decode."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (1, 2, 3)).save(out, "PNG", compress_level=9)
    return out.getvalue() + bytes(5000)


@pytest.fixture
def decoders(request: pytest.FixtureRequest) -> Iterator[Decoders]:
    settings = DownloadSettings.model_validate(getattr(request, "param", {}))
    started = Decoders(settings)
    yield started
    started.close()


def attempt(decoders: Decoders, data: bytes) -> Decoded | Refused:
    try:
        return decoders.decode(data)
    except Refused as refused:
        return refused


def test_a_decoder_answers_as_decoding_in_this_process_does(decoders: Decoders) -> None:
    first = decoders.pid
    assert decoders.decode(SMALL) == Decoder(DownloadSettings())(SMALL)
    with pytest.raises(Refused) as refused:
        decoders.decode(SMALL[:6000])
    assert (refused.value.reason, refused.value.mime) == (DropReason.DECODE, "image/jpeg")
    assert decoders.decode(SMALL).stored == decoders.decode(SMALL).stored
    assert (decoders.pid, decoders.replaced) == (first, 0)
    assert decoders.cpu_seconds > 0


@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGSEGV])
def test_a_decoder_killed_in_the_middle_costs_one_image(decoders: Decoders, killer: signal.Signals) -> None:
    answers: list[Decoded | Refused] = []
    before = decoders.cpu_seconds
    process = psutil.Process(decoders.pid)
    used = process.cpu_times().user
    thread = threading.Thread(target=lambda: answers.append(attempt(decoders, endless_scans())))
    thread.start()
    wait_until(lambda: process.cpu_times().user > used + 0.2)  # it is decoding
    process.send_signal(killer)
    thread.join(60)
    (refused,) = answers
    assert isinstance(refused, Refused)
    assert refused.reason is DropReason.DECODE_CRASH
    assert killer.name in str(refused)
    assert decoders.decode(SMALL).width == 256
    assert decoders.pid != process.pid
    assert decoders.replaced == 1
    assert decoders.cpu_seconds >= before + 0.2  # the dead one's time counts


def test_a_crash_ends_a_decoder_whatever_its_parent_does_with_the_signal() -> None:
    handler = signal.signal(signal.SIGSEGV, lambda *_: None)
    try:
        decoders = Decoders(DownloadSettings())
        assert decoders.decode(SMALL).width == 256  # it is up
        psutil.Process(decoders.pid).send_signal(signal.SIGSEGV)
        refused = attempt(decoders, SMALL)
        assert isinstance(refused, Refused)
        assert "SIGSEGV" in str(refused)
        decoders.close()
    finally:
        signal.signal(signal.SIGSEGV, handler or signal.SIG_DFL)


@pytest.mark.parametrize("decoders", [{"decode_timeout": 2}], indirect=True)
def test_an_image_that_takes_too_long(decoders: Decoders) -> None:
    refused = attempt(decoders, endless_scans())
    assert isinstance(refused, Refused)
    assert refused.reason is DropReason.DECODE_TIMEOUT
    assert decoders.decode(SMALL).width == 256
    assert decoders.replaced == 1


def test_a_decoder_that_was_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's timer cannot end it then."""
    monkeypatch.setattr("wat2mds.stages.download.decoders._GRACE_SECONDS", 1.0)
    decoders = Decoders(DownloadSettings(decode_timeout=1))
    psutil.Process(decoders.pid).suspend()
    refused = attempt(decoders, SMALL)
    assert isinstance(refused, Refused)
    assert refused.reason is DropReason.DECODE_TIMEOUT
    assert decoders.replaced == 1
    decoders.close()


def refused_for_memory() -> list[DropReason]:
    """What two images get that take four times the memory they may; after each, a decoder that decodes again."""
    decoders = Decoders(DownloadSettings(decode_memory=60_000_000))
    reasons = []
    for times in (1, 2):
        refused = attempt(decoders, wide_png(9000))
        assert isinstance(refused, Refused)
        reasons.append(refused.reason)
        assert decoders.decode(SMALL).width == 256
        assert decoders.replaced == times
    decoders.close()
    return reasons


def test_an_image_that_takes_too_much_memory() -> None:
    """In a new process, as a worker's is: what runs the tests has freed memory that the decoder may use beyond its limit."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        assert worker.submit(refused_for_memory).result() == [DropReason.DECODE_MEMORY] * 2


def test_bytes_that_kill_no_decoder(decoders: Decoders) -> None:
    """A PNG's and a JPEG's size say what is to come; the bytes after them do not."""
    broken = bytearray(picture(200, 200, "PNG"))
    broken[16:24] = struct.pack(">II", 9000, 9000)
    for data in (bytes(broken), SMALL.replace(b"\xff\xda", b"\xff\xff"), bytes(6000), b""):
        assert isinstance(attempt(decoders, data), Refused)
    assert decoders.replaced == 0


def test_a_decoder_ends_with_its_worker() -> None:
    decoders = Decoders(DownloadSettings())
    process = psutil.Process(decoders.pid)
    supervisor = process.parent()
    assert supervisor is not None
    decoders.close()
    _, alive = psutil.wait_procs([process, supervisor], timeout=30)
    assert alive == []


def wait_until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
