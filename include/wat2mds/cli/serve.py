"""Commands about searching: serve."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from wat2mds.cli.options import Dataset, Root, emit, store_root
from wat2mds.errors import ConfigError
from wat2mds.settings import deployment
from wat2mds.store import Layout

PORT = 8070
_MOST_CONNECTIONS = 500


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    index: Annotated[
        list[str] | None,
        typer.Option(help="Name of a kNN index to serve; may be repeated. Default: all that the dataset has.", metavar="NAME"),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", help="Version of the dataset. Default: the newest that has an index.", min=1, metavar="N"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than loopback lets other machines in.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = PORT,
    host_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which browsers call the service; may be repeated. On loopback: localhost besides.", metavar="NAME"
        ),
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(help="Address of a reverse proxy whose X-Forwarded-For is believed.", metavar="ADDRESS")
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Requests a second that one client may make; a stored image is a tenth.", min=0.1)
    ] = 20.0,
    max_body: Annotated[int, typer.Option(help="Most bytes of a request.", min=1024)] = 10 << 20,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of an image that is searched for.", min=1024)] = 25_000_000,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Folder where the version's metadata is kept for the next start. Default: a temporary one, made anew.",
            metavar="DIR",
        ),
    ] = None,
    refresh: Annotated[
        float,
        typer.Option(help="Seconds between looks for a newer version that has an index, which is then served. 0: never.", min=0),
    ] = 60.0,
    device: Annotated[str, typer.Option(help="Where the CLIP model runs: auto, cpu, cuda or cuda:N.")] = "auto",
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """Serve a dataset's search: a page for people, JSON, and clip-retrieval's protocol, until interrupted."""
    import uvicorn

    from wat2mds.serve.app import create_app
    from wat2mds.serve.collection import Collections, kept_current
    from wat2mds.serve.options import LOOPBACK, Options

    url = Layout(store_root(root), dataset or deployment().dataset).dataset
    token = deployment().serve_token or secrets.token_urlsafe(24)
    if len(token) < 16 or not token.isascii():
        raise ConfigError(
            "WAT2MDS_SERVE_TOKEN is guessed too easily: at least 16 ASCII characters, e.g. of `openssl rand -hex 24`"
        )
    names = [name.lower() for name in host_name or ()]
    local = _is_loopback(host)
    with contextlib.ExitStack() as stack:
        folder = Path(cache) if cache else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wat2mds-serve-")))
        collections = Collections(url, folder, index or (), version, device)
        options = Options(
            token=token,
            hosts=(*LOOPBACK, *names) if local or names else (),
            max_body=max_body,
            max_pixels=max_pixels,
            rate=rate,
            burst=rate * 5,
        )
        config = uvicorn.Config(
            create_app(collections, options),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=5,
            proxy_headers=proxy is not None,
            forwarded_allow_ips=proxy or "",
        )
        server = uvicorn.Server(config)
        socket = config.bind_socket()
        socket.listen(config.backlog)  # who comes before it is started waits, and is not refused
        shown = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}/"
        # The part after # stays in the browser: it is sent to nobody, and no proxy logs it.
        mine = "" if deployment().serve_token else f"#token={token}"
        typer.echo(f"{', '.join(collections.names)} of {url}: {shown}{mine}", err=True)
        if not local:
            typer.echo(
                "Other machines can read what is served, and nothing is encrypted: put a proxy with TLS before it.", err=True
            )
        if refresh and version is None:
            stack.enter_context(kept_current(collections, refresh))
        # uvicorn ends in good order when it is interrupted, and then interrupts once more.
        with contextlib.closing(socket), contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[socket])
        emit({"dataset": url, "indices": collections.names, "version": collections.default.version.number, "url": shown})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
