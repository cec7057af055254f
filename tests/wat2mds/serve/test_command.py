"""``wat2mds serve`` as a process: it says where it is, answers there, and ends when it is interrupted."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import httpx
import pytest

from tests.wat2mds.serve.conftest import Served
from wat2mds.cli.main import run as command
from wat2mds.settings import child_environment


@pytest.mark.timeout(900)  # it loads what the service loads, once more
def test_it_serves_until_it_is_interrupted(served: Served) -> None:
    root, _, name = served.dataset.rpartition("/datasets/")
    started = [sys.executable, "-m", "wat2mds", "serve", "--root", root, "--dataset", name, "--port", "0", "--device", "cpu"]
    environment = child_environment(WAT2MDS_SERVE_TOKEN="")
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"(http://127\.0\.0\.1:\d+/)#token=(\S+)", line):
                break
        else:
            raise AssertionError(said)
        url, token = found.groups()
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                # It listens before it is started: the first request waits.
                assert client.get("/health").json()["samples"] == len(served.pictures)
                wish = {"uid": min(served.pictures), "reason": "other"}
                assert client.post("/api/reports", json=wish, headers={"Authorization": f"Bearer {token}"}).status_code == 201
        finally:
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
    assert json.loads(out.splitlines()[-1])["url"] == url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "smal"], "Did you mean 'small'"),
        (["--version", "7"], "no kNN index of version 7"),
    ],
)
def test_what_cannot_be_served(served: Served, options: list[str], message: str, caplog: pytest.LogCaptureFixture) -> None:
    root, _, name = served.dataset.rpartition("/datasets/")
    assert command(["serve", "--root", root, "--dataset", name, *options]) == 78
    assert message in caplog.text


def test_a_token_that_is_guessed(served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("WAT2MDS_SERVE_TOKEN", "secret")
    root, _, name = served.dataset.rpartition("/datasets/")
    assert command(["serve", "--root", root, "--dataset", name]) == 78
    assert "guessed" in caplog.text
    assert "secret" not in caplog.text.replace("WAT2MDS_SERVE_TOKEN", "")
