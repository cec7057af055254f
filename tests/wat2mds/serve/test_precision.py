"""What is asked for is found: the demo world's newer snapshot, its first WAT file enlarged, built by the real stages as `make demo` does,
indexed and served by a real HTTP server.

What is right is what is drawn, which the world knows: a published sample of `Expected` shows what its caption says. Every other sample
would be wrong in every result.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.wat2mds.chain import Chain
from tests.wat2mds.programs import Programs
from tests.wat2mds.serve.conftest import OPTIONS, Serving
from wat2mds.models.tiny_data import KINDS
from wat2mds.serve.collection import Collections
from wat2mds.serve.filters import Condition
from wat2mds.snapshots import Registry
from wat2mds.store import Layout
from wat2mds.versions import open_table, read_version
from wat2mds.world.demo_world import NEWER, draw_world
from wat2mds.world.draw import all_pictures, draw
from wat2mds.world.expected import compare

IMAGES, WRONG_SHARE = 700, 0.3  # more than the demo's, so that there are ten of most kinds
LEAST = 0.8
_SAID = re.compile(rf"({'|'.join(sorted({c for c, _ in KINDS}))}) ({'|'.join(sorted({s for _, s in KINDS}))})(?:s|es)?\b")
Kind = tuple[str, str]


class Shown:
    """A client of the service, and the kind (colour, shape) of every sample by uid; none of what must not be published."""

    def __init__(self, client: httpx.Client, kinds: dict[str, Kind | None]) -> None:
        self.client = client
        self.kinds = kinds
        self.counts = Counter(kinds.values())

    def precision(self, kind: Kind, query: dict[str, object], *, left_out: int = 0) -> float:
        """precision@10 of one query; of a kind with n samples, fewer than ten, precision@n, which is then the share of them found."""
        size = min(10, self.counts[kind] - left_out)
        answer = self.client.post("/api/search", json=query | {"unsafe": True, "fold": False, "page_size": size})
        assert answer.status_code == 200, answer.text
        found = [one["uid"] for one in answer.json()["samples"]]
        assert len(found) == size
        return sum(self.kinds[uid] == kind for uid in found) / size


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("precision")
    world = draw_world(folder / "world", images=IMAGES, wrong_share=WRONG_SHARE)
    root = (folder / "store").as_uri()
    Registry(root).register(NEWER, collinfo=str(world.collinfo), source=str(world.crawl))
    with world.origin() as origin:
        chain = Chain(root, origin.address, programs)
        chain.run(chain.plan("demo", "0-2", snapshot=NEWER))
    chain.index("demo", "build", "small")

    # What must be published is, and no mismatched pair: the demo's threshold parts them here too.
    dataset = Layout(root, "demo").dataset
    version = read_version(dataset)
    drops: dict[str, dict[str, dict[str, int]]] = {}
    for unit in version.units.values():
        for flow in unit.flows:
            of_stage = drops.setdefault(unit.wat_file, {}).setdefault(flow["stage"], Counter())
            of_stage.update(flow["drops"])
    uids = open_table(dataset, version).to_pyarrow_table(columns=["uid"])["uid"].to_pylist()
    assert compare(world.expected.of(NEWER), drops, uids) == []

    collections = Collections(dataset, folder / "cache", device="cpu")
    right = world.expected.uids(NEWER)
    rows = collections.default.rows.take(Condition(()), None, 10_000)
    kinds = {row["uid"]: _kind(row["caption"]) if row["uid"] in right else None for row in rows}
    with Serving(collections, OPTIONS) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Shown(client, kinds)


@pytest.mark.parametrize("form", ["{} {}", "a photo of a {} {}"])
def test_words_find_what_they_name(shown: Shown, form: str) -> None:
    """Mean precision@10 over every colour and shape that is there; of a kind with n < 10 samples, precision@n."""
    kinds = [kind for kind in KINDS if shown.counts[kind]]
    assert len(kinds) == len(KINDS)
    assert sum(shown.counts[kind] >= 10 for kind in kinds) > len(kinds) / 2
    found = {kind: shown.precision(kind, {"text": form.format(*kind)}) for kind in kinds}
    assert np.mean(list(found.values())) >= LEAST, found


def test_an_image_finds_its_like(shown: Shown) -> None:
    """The same by images that are in no dataset: two a kind, of any background, place and size, drawn by seeds of their own."""
    rng = np.random.default_rng(11)
    pictures = all_pictures()
    found = []
    for kind in KINDS:
        of_kind = [picture for picture in pictures if (picture.colour, picture.shape) == kind]
        for at in rng.choice(len(of_kind), 2, replace=False):
            sent = io.BytesIO()
            draw(of_kind[at], 320, 320, 20_000_000 + int(at)).save(sent, "JPEG", quality=88)
            vector = shown.client.post("/api/embedding", content=sent.getvalue()).json()["embedding"]
            found.append(shown.precision(kind, {"embedding": vector}))
    assert np.mean(found) >= LEAST


def test_a_sample_finds_its_like(shown: Shown) -> None:
    """The same by samples, as "more like this" asks: every third, itself left out; where n - 1 < 10 others are there, precision@(n - 1)."""
    found = [
        shown.precision(kind, {"uid": uid}, left_out=1)
        for uid, kind in sorted(shown.kinds.items())[::3]
        if kind is not None and shown.counts[kind] > 1
    ]
    assert np.mean(found) >= LEAST


def _kind(caption: str) -> Kind:
    """Colour and shape that a caption of the world names; the background's colour is named apart from a shape."""
    said = _SAID.search(caption)
    assert said, caption
    return said[1], said[2]
