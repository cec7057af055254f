"""clip-retrieval 2.45's own ``ClipClient`` against ``wat2mds serve``: text, image and embedding, results compared; and the search's
precision.

    PYTHONPATH=include .venv/bin/python -m tests.benchmarks.clip_client

The client is its package from the package index, in the environment of its own that ``tests.benchmarks.clip`` makes; it runs there
as a program. The dataset is the tests' drawings with the tiny CLIP. Asserted: every query gives what the page's own protocol gives,
in its order. Printed, as read: seconds a query; precision at 10 of "<colour> <shape>" over all colours and shapes, and of an
image's neighbours, beside brute force over the stored embeddings.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.benchmarks.clip import BENCH, PEER, install_peer
from tests.wat2mds.serve.conftest import Served, serve_drawings

_CLIENT = """
import json, sys, time
from clip_retrieval.clip_client import ClipClient
url, given = json.loads(sys.argv[1])
client = ClipClient(url=url + "/knn-service", indice_name="small", num_images=40)
began = time.perf_counter()
found = [client.query(**one) for one in given]
print(json.dumps({"found": found, "seconds": (time.perf_counter() - began) / len(given)}))
"""
TEXTS = ("red circle", "three small blue stars at the top on a yellow background", "grey")


def compare(served: Served, folder: Path) -> dict[str, Any]:
    """Ask through the client and through the page's protocol. Raises AssertionError where they differ."""
    with served.client() as client:
        uids = sorted(served.pictures)[::90]
        given: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
        expected = [client.get("/api/search", params={"text": text}).json()["samples"] for text in TEXTS]
        for uid in uids:
            image = folder / f"{uid}.jpg"
            image.write_bytes(client.get(f"/images/{uid}").content)
            embedding = client.post("/api/embedding", content=image.read_bytes()).json()["embedding"]
            given += [{"image": str(image)}, {"embedding_input": embedding}]
            expected += [client.post("/api/search", json={"embedding": embedding}).json()["samples"]] * 2
    (folder / "program.py").write_text(_CLIENT)
    command = [PEER, "-P", folder / "program.py", json.dumps([served.url, given])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCH, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    for one, wanted in zip(answer["found"], expected, strict=True):
        assert [hit["uid"] for hit in one] == [sample["uid"] for sample in wanted]
    return {"queries": len(given), "equal": len(given), "seconds_a_query": round(answer["seconds"], 4)}


def precision(served: Served) -> dict[str, float]:
    """Mean precision at 10, or at as many as there are; near-duplicates and unsafe samples as any."""
    index = served.collections.default.index
    kinds = {uid: (picture.colour, picture.shape) for uid, picture in served.pictures.items()}
    uids = sorted(kinds)
    vectors = np.stack([index.vector(uid, "image") for uid in uids])  # type: ignore[arg-type]

    def share(found: list[str], kind: tuple[str, str], there: int) -> float:
        at = min(10, there)
        return sum(kinds[uid] == kind for uid in found[:at]) / at

    by_text, by_force, by_image = [], [], []
    with httpx.Client(base_url=served.url, timeout=60) as client:
        options = {"unsafe": True, "fold": False, "page_size": 10}
        for kind in sorted(set(kinds.values())):
            there = sum(one == kind for one in kinds.values())
            text = " ".join(kind)
            found = [one["uid"] for one in client.get("/api/search", params={"text": text, **options}).json()["samples"]]
            by_text.append(share(found, kind, there))
            scores = vectors @ served.collections.default.encoder.text(text)
            by_force.append(share([uids[n] for n in np.argsort(-scores)], kind, there))
        for uid in uids[::5]:
            there = sum(one == kinds[uid] for one in kinds.values()) - 1
            found = [one["uid"] for one in client.get("/api/search", params={"uid": uid, **options}).json()["samples"]]
            by_image.append(share(found, kinds[uid], there))
    figures = {"text": by_text, "text by brute force": by_force, "image": by_image}
    return {f"precision at 10, {name}": round(float(np.mean(values)), 3) for name, values in figures.items()}


def main() -> int:
    with tempfile.TemporaryDirectory() as name, serve_drawings(Path(name)) as served:
        print(json.dumps(precision(served)))
        if (why := install_peer()) is not None:
            print(f"clip-retrieval cannot be installed: {why}", file=sys.stderr)
            return 75
        print(json.dumps(compare(served, Path(name))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
