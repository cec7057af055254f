"""One dataset of drawings, made by the real stages with the tiny CLIP, indexed, and served by a real HTTP server, for all tests here."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from tests.wat2mds.stages.filter.drawings import Drawn, download_unit, under
from wat2mds.models.tiny_data import split_pictures, stored_jpegs
from wat2mds.search import building
from wat2mds.serve.app import create_app
from wat2mds.serve.collection import Collections
from wat2mds.serve.filters import Condition
from wat2mds.serve.options import Options
from wat2mds.settings import Settings
from wat2mds.stages import convert, filter, publish, upload
from wat2mds.store import Layout, split
from wat2mds.versions import read_version
from wat2mds.world.draw import Picture, caption, marked

TOKEN = "a-token-of-the-tests-0123456789"
OPTIONS = Options(token=TOKEN, max_body=1 << 20, max_pixels=4_000_000, rate=10_000, burst=10_000, body_seconds=5)
ALL = ("filter.max_punsafe=", "filter.min_similarity=-1", "filter.min_similarity_other=-1")
EACH = 10  # pictures of each shape and colour
LICENSES = (
    (None, None, None),
    ("https://creativecommons.org/licenses/by-sa/4.0/", "by-sa", "4.0"),
    ("https://creativecommons.org/publicdomain/zero/1.0/", "zero", "1.0"),
)


@dataclass(frozen=True)
class Served:
    """A dataset and the service of it. ``pictures``: what is to be seen, by uid."""

    dataset: str
    url: str
    collections: Collections
    pictures: dict[str, Picture]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)


def pictures() -> list[Picture]:
    """EACH of every shape and colour, of captions that the model was not trained on; some marked, which the safety head calls unsafe."""
    rng = np.random.default_rng(7)
    kinds: dict[tuple[str, str], list[Picture]] = {}
    for picture in split_pictures().test:
        kinds.setdefault((picture.colour, picture.shape), []).append(picture)
    chosen = [kinds[kind][n] for kind in sorted(kinds) for n in rng.permutation(len(kinds[kind]))[:EACH]]
    return [marked(picture, "warning") if n % 40 == 39 else picture for n, picture in enumerate(chosen)]


def drawn_pairs(shown: list[Picture]) -> list[Drawn]:
    """As pairs from five hosts, with licences and pages; every thirtieth picture is there twice, the copy with a
    caption in German."""
    jpegs = stored_jpegs([(picture, n, "keep_ratio") for n, picture in enumerate(shown)])
    pairs = []
    for n, (picture, jpeg) in enumerate(zip(shown, jpegs, strict=True)):
        license_url, kind, version = LICENSES[n % 3]
        page = {
            "page_url": f"https://page{n % 7}.example.org/{n}.html",
            "license": license_url,
            "license_type": kind,
            "license_version": version,
        }
        text = caption(picture)
        width, height = Image.open(io.BytesIO(jpeg)).size
        sides = (width * (1 + n % 5), height * (1 + n % 5))
        pairs.append(Drawn(f"https://images{n % 5}.example.org/{n}.jpg", text, jpeg, sides, page))
        if n % 30 == 0:
            pairs.append(
                Drawn(
                    f"https://copies.example.net/{n}.jpg",
                    f"Drei Kinder spielen hinter dem alten Bauernhaus, Bild {n}",
                    jpeg,
                    sides,
                    page,
                )
            )
    return pairs


def publish_drawings(dataset: str, pairs: list[Drawn], settings: Settings, wat_file: str = "00000") -> None:
    """Filter, convert, upload and publish of one WAT file of drawings."""
    samples = download_unit(dataset, pairs, settings, shard=64, wat_file=wat_file)
    work = split(samples.url)[0].rpartition("/")[0]
    decided = filter.run(samples, f"{work}/filter", settings)
    converted = convert.run(samples, decided, f"{work}/convert", settings)
    publish.run([upload.run(converted, dataset, f"{work}/upload", settings)], dataset, settings)


class Serving:
    """An app on a free port of loopback, in a thread; a context manager that gives its URL."""

    def __init__(self, collections: Collections, options: Options) -> None:
        config = uvicorn.Config(create_app(collections, options), host="127.0.0.1", port=0, log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._socket = config.bind_socket()
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()


@contextmanager
def serve_drawings(folder: Path) -> Iterator[Served]:
    """Make the dataset and its index in a folder, and serve it."""
    dataset = Layout((folder / "store").as_uri(), "drawn").dataset
    shown = pictures()
    pairs = drawn_pairs(shown)
    publish_drawings(dataset, pairs, under("demo", *ALL))
    building.build(dataset, "small")
    collections = Collections(dataset, folder / "cache", device="cpu")
    by_url = {pair.url: picture for pair, picture in zip(pairs, _sources(shown), strict=True)}
    assert read_version(dataset).samples == collections.default.rows.count == len(pairs)
    with Serving(collections, OPTIONS) as url:
        rows = collections.default.rows.take(Condition(()), None, 10_000)
        yield Served(dataset, url, collections, {row["uid"]: by_url[row["url"]] for row in rows})


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_drawings(tmp_path_factory.mktemp("served")) as served:
        yield served


def _sources(shown: list[Picture]) -> list[Picture]:
    """The picture of each pair."""
    return [picture for n, picture in enumerate(shown) for _ in range(2 if n % 30 == 0 else 1)]


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client
