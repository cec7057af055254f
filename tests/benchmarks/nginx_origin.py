"""nginx serving a folder over http and https on loopback, kept alive, with a certificate that a CA of the moment signed.

The CA stands at the end of a copy of the system's whole bundle, named by ``bundle`` (for SSL_CERT_FILE): what loading a real bundle costs
is part of what https costs.
"""

from __future__ import annotations

import datetime
import getpass
import ipaddress
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wat2mds.deploy.launcher import free_port

ADDRESS = "127.0.0.1"
CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {base}/nginx.pid;
error_log {base}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 75s;
  keepalive_requests 1000000;
  types {{ image/jpeg jpg; }}
  client_body_temp_path {base}/temporary;
  proxy_temp_path {base}/temporary;
  fastcgi_temp_path {base}/temporary;
  uwsgi_temp_path {base}/temporary;
  scgi_temp_path {base}/temporary;
  root {root};
  server {{ listen {address}:{http}; }}
  server {{
    listen {address}:{https} ssl;
    ssl_certificate {base}/server.pem;
    ssl_certificate_key {base}/server.pem;
    ssl_session_cache shared:tls:10m;
  }}
}}
"""


class Nginx:
    """A context manager. ``ports``: of http and https; ``bundle``: the certificates to trust."""

    def __init__(self, base: Path, root: Path) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            sys.exit("nginx is not there; on Debian: apt-get install nginx-light")
        self.base = base
        self.bundle = base / "bundle.pem"
        self.ports = {"http": free_port(), "https": free_port()}
        (base / "temporary").mkdir(parents=True)
        self._certify()
        # A master that is root gives its workers to another user, who may not read here.
        text = CONFIGURATION.format(
            base=base,
            root=root,
            address=ADDRESS,
            user=f"user {getpass.getuser()};" if getpass.getuser() == "root" else "",
            **self.ports,
        )
        (base / "nginx.conf").write_text(text)
        self._command = [program, "-c", str(base / "nginx.conf"), "-e", str(base / "error.log")]

    def __enter__(self) -> Nginx:
        self._process = subprocess.Popen(self._command)
        end = time.monotonic() + 20
        while not all(_listens(port) for port in self.ports.values()):
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.terminate()
                sys.exit(f"nginx did not start: {(self.base / 'error.log').read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _certify(self) -> None:
        authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA of a benchmark")])
        authority = (
            _certificate(name, name, authority_key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ADDRESS)])
        served = _certificate(subject, name, key).add_extension(address, critical=False).sign(authority_key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.base / "server.pem").write_bytes(secret + served.public_bytes(pem))
        system = ssl.get_default_verify_paths().cafile
        if system is None:
            sys.exit("the system has no bundle of certificates; on Debian: apt-get install ca-certificates")
        self.bundle.write_bytes(Path(system).read_bytes() + authority.public_bytes(pem))


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0
