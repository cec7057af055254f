"""Names and certificates on real sockets: connections go where the check said, and to nobody who cannot prove its name."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.wat2mds.stages.download.hostile_origin import HostileOrigin
from tests.wat2mds.stages.download.test_fetch import BODY, OK, Alone, redirect, refusal
from wat2mds.drops import DropReason
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download import addresses
from wat2mds.stages.download.addresses import Resolver

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"  # what stands for them here: two loopback addresses with one port


@dataclass
class Names:
    """What the system's resolver answers, one answer after the other and the last for ever; ``visitors``: who came to PRIVATE."""

    answers: dict[str, list[list[str]]]
    visitors: list[object]

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        answers = self.answers[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, 0)) for at in found]


@pytest.fixture
def names(hostile: HostileOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    given = Names({}, [])
    monkeypatch.setattr(socket, "getaddrinfo", given.getaddrinfo)
    monkeypatch.setattr(addresses, "is_public", lambda address: address == PUBLIC)
    victim = socket.create_server((PRIVATE, port_of(hostile)))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                given.visitors.append(victim.accept())

    threading.Thread(target=accept, daemon=True).start()
    yield given
    victim.close()


def port_of(origin: HostileOrigin) -> int:
    return int(origin.address.rpartition(":")[2])


def fetcher(folder: Path, *ports: int) -> Alone:
    quiet = {"obey_robots_txt": False, "obey_tdmrep_file": False, "retries": 0, "timeout": 5, "host_delay": 0}
    return Alone(DownloadSettings.model_validate(quiet | {"host_folder": str(folder), "allowed_ports": ports}), "tests")


def test_a_name_that_is_public_first_and_private_afterwards(hostile: HostileOrigin, names: Names, tmp_path: Path) -> None:
    """What was checked is what is connected to, for as long as the answer is kept; asked for anew, it is checked anew."""
    port = port_of(hostile)
    names.answers = {"rebinding.example": [[PUBLIC], [PRIVATE]], "b.example": [[PUBLIC]]}
    hostile.behaviours |= {"/a.jpg": OK, "/there.jpg": redirect(f"http://rebinding.example:{port}/a.jpg")}
    fetch = fetcher(tmp_path, port)
    for _ in range(3):
        assert fetch.image(f"http://rebinding.example:{port}/a.jpg").body == BODY
    assert fetch.image(f"http://b.example:{port}/there.jpg").body == BODY
    later = fetcher(tmp_path, port)
    assert refusal(later, f"http://rebinding.example:{port}/a.jpg").reason is DropReason.PRIVATE_ADDRESS
    assert refusal(later, f"http://b.example:{port}/there.jpg").reason is DropReason.PRIVATE_ADDRESS
    assert names.visitors == []


def test_a_name_that_is_both_leads_to_the_public_one_only(hostile: HostileOrigin, names: Names, tmp_path: Path) -> None:
    port = port_of(hostile)
    names.answers = {"both.example": [[PRIVATE, PUBLIC, "::1"]]}
    hostile.behaviours["/a.jpg"] = OK
    assert fetcher(tmp_path, port).image(f"http://both.example:{port}/a.jpg").body == BODY
    assert names.visitors == []


@pytest.mark.parametrize("address", [PRIVATE, "169.254.169.254", "::1", "10.0.0.1"])
def test_a_redirect_to_a_name_of_a_private_address(hostile: HostileOrigin, names: Names, tmp_path: Path, address: str) -> None:
    port = port_of(hostile)
    names.answers = {"a.example": [[PUBLIC]], "inside.example": [[address]]}
    hostile.behaviours["/a.jpg"] = redirect(f"http://inside.example:{port}/a.jpg")
    assert refusal(fetcher(tmp_path, port), f"http://a.example:{port}/a.jpg").reason is DropReason.PRIVATE_ADDRESS
    assert len(hostile.requests) == 1
    assert names.visitors == []


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """An https origin with a certificate for each name of ``.example``: its own, or for another, or one of the past."""
    made = {name: self_signed(tmp_path, name) for name in ("a.example", "other.example")}
    made["old.example"] = self_signed(tmp_path, "old.example", days=-2)
    made["b.example"] = made["other.example"]
    contexts = {}
    for name, path in made.items():
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts[name].load_cert_chain(path)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = contexts[str(name)]

    contexts["a.example"].sni_callback = choose
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), contexts["a.example"].wrap_socket(connection, server_side=True) as accepted:
                    accepted.recv(65536)
                    OK(accepted, "")

    threading.Thread(target=serve, daemon=True).start()
    # A world speaks plain HTTP only, so names are brought to loopback behind the address check, which is tested above.
    port = listener.getsockname()[1]
    monkeypatch.setattr(Resolver, "addresses", lambda self, host, port_, wait: [("127.0.0.1", port)])
    yield made
    listener.close()


def test_tls_is_verified(secure: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-signed is refused; once it is trusted, the one of its name and day is taken, and no other."""
    for name in secure:
        assert refusal(fetcher(tmp_path, 443), f"https://{name}/a.jpg").reason is DropReason.TLS
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(b"".join(path.read_bytes() for path in secure.values()))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    fetch = fetcher(tmp_path, 443)
    assert fetch.image("https://a.example/a.jpg").body == BODY
    assert "expired" in str(refusal(fetch, "https://old.example/a.jpg"))
    assert "mismatch" in str(refusal(fetch, "https://b.example/a.jpg"))


def test_what_speaks_no_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(Resolver, "addresses", lambda self, host, port_, wait: [("127.0.0.1", port)])

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    OK(connection, "")

        threading.Thread(target=serve, daemon=True).start()
        assert refusal(fetcher(tmp_path, 443), "https://a.example/a.jpg").reason is DropReason.TLS


def self_signed(folder: Path, name: str, days: int = 1) -> Path:
    """Valid from three days ago until in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=3))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path
