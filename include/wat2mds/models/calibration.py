"""Where a threshold lies under another model: similarities of matched and mismatched pairs, from stored embeddings.

In: embeddings of images and captions, float16, and which model each row is of. Out: distributions, and the threshold of equal rank: the
one that keeps the same share of matched pairs as the published model kept at its published threshold. Guaranteed: nothing is embedded,
nothing drawn at random; the same embeddings give the same figures. What does not belong here: choosing a threshold for anyone.

The reference is LAION-5B's: 5.85 billion kept of "50+ billion" candidates (laion.ai/blog/laion-5b), 11.7 %, at 0.28 for English and 0.26
for the rest. The number of candidates is a round one, and may hold pairs whose image could not be fetched, so that the share among
scored pairs was 11.7 % or more. Of LAION-400M no number of candidates is published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from wat2mds.errors import DataError
from wat2mds.manifest import Manifest
from wat2mds.store import Store, fetch, join

REFERENCE_SHARE = 0.117
REFERENCE = "LAION-5B kept 5.85 billion of 50+ billion candidates (laion.ai/blog/laion-5b) at 0.28 English, 0.26 others"
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_BIN = 0.02
_BAR = 40


class Rows(NamedTuple):
    """Embeddings of one model, rows alike: [n, dim]."""

    model: str
    images: np.ndarray
    texts: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """Cosines of one model's pairs, each image with its own caption, and with that of another image of the same file."""

    model: str
    matched: np.ndarray
    mismatched: np.ndarray

    def threshold(self, share: float) -> float:
        """The cosine that the given share of matched pairs reaches, at least one pair."""
        kept = max(1, round(share * len(self.matched)))
        return float(np.sort(self.matched)[-kept])

    def figures(self, share: float) -> dict[str, Any]:
        limit = self.threshold(share)
        kinds = {"matched": self.matched, "mismatched": self.mismatched}
        return {
            "pairs": len(self.matched),
            "share": share,
            "threshold_of_equal_rank": round(limit, 4),
            **{f"{kind}_at_or_above": round(float((values >= limit).mean()), 4) for kind, values in kinds.items()},
            **{kind: {f"{q:g}": round(float(np.quantile(values, q)), 4) for q in QUANTILES} for kind, values in kinds.items()},
        }

    def histogram(self) -> list[str]:
        """One line a bin of 0.02: matched pairs as #, mismatched ones as -, the longest bar 40 wide."""
        both = np.concatenate([self.matched, self.mismatched])
        low, high = np.floor(both.min() / _BIN), np.floor(both.max() / _BIN) + 1
        edges = np.arange(low, high + 1) * _BIN
        counts = [np.histogram(values, edges)[0] / len(values) for values in (self.matched, self.mismatched)]
        most = max(count.max() for count in counts)
        lines = []
        for edge, right, wrong in zip(edges, *counts, strict=False):
            lines.append(f"{edge:6.2f} {'#' * round(_BAR * right / most):{_BAR}} {right:6.1%}")
            lines.append(f"       {'-' * round(_BAR * wrong / most):{_BAR}} {wrong:6.1%}")
        return lines


def calibrate(rows: Iterable[Rows]) -> list[Calibration]:
    """One a model, in order of their names. Raises DataError for a model with fewer than two pairs in each of its files."""
    cosines: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for part in rows:
        if len(part.images) != len(part.texts) or (len(part.images) and part.images.shape != part.texts.shape):
            raise DataError(
                f"{part.model}: {part.images.shape} image and {part.texts.shape} text embeddings do not belong together"
            )
        found = cosines.setdefault(part.model, ([], []))
        if len(part.images) < 2:
            continue
        images, texts = (_unit(values) for values in (part.images, part.texts))
        found[0].append(np.einsum("nd,nd->n", images, texts))
        # Half a file away: no image meets its own caption, and seldom a page's next one.
        found[1].append(np.einsum("nd,nd->n", images, np.roll(texts, len(texts) // 2, axis=0)))
    empty = [model for model, (matched, _) in cosines.items() if not matched]
    if empty or not cosines:
        raise DataError(f"there are no pairs to calibrate with{': ' + ', '.join(empty) if empty else ''}")
    return [Calibration(model, *(np.concatenate(values) for values in found)) for model, found in sorted(cosines.items())]


def of_scores(scores: Manifest, folder: Path) -> Iterator[Rows]:
    """The embeddings of one of filter's units of scores: every pair with an image, kept or not."""
    models = np.array(pq.read_table(scores.fetch("scores.parquet", folder), columns=["clip_model"])["clip_model"].to_pylist())
    first, other = scores.extra["clip_model"], scores.extra.get("clip_model_other")
    mine = models == first
    yield Rows(first, *(np.load(scores.fetch(f"{name}.npy", folder))[mine] for name in ("img_emb", "text_emb")))
    if other is not None:
        yield Rows(other, *(np.load(scores.fetch(f"{name}_other.npy", folder)) for name in ("img_emb", "text_emb")))


def of_folder(url: str, folder: Path) -> Iterator[Rows]:
    """Embeddings as clip-retrieval lays them out: ``img_emb/*.npy``, ``text_emb/*.npy`` and, for the model's name, ``metadata/*.parquet``;
    those of a model for other languages in the same form below ``other``.

    Raises DataError for a folder that has none.
    """
    store = Store(url)
    names = sorted(name for name in store.names("img_emb")[0] if name.endswith(".npy"))
    if not names:
        raise DataError(f"{url} holds no embeddings: img_emb/*.npy and text_emb/*.npy are expected, or a WAT file's work folder")
    others = list(of_folder(join(url, "other"), _below(folder))) if "other" in store.names()[1] else []
    yield from others
    for name in names:
        number = name.removeprefix("img_emb_").removesuffix(".npy")
        images, texts = (
            np.load(fetch(join(url, kind, f"{kind}_{number}.npy"), folder), allow_pickle=False)
            for kind in ("img_emb", "text_emb")
        )
        models = np.full(len(images), "unnamed model")
        metadata = f"metadata_{number}.parquet"
        if metadata in store.names("metadata")[0]:
            path = fetch(join(url, "metadata", metadata), folder)
            if "clip_model" in pq.read_schema(path).names:
                models = np.array(pq.read_table(path, columns=["clip_model"])["clip_model"].to_pylist(), dtype=str)
        for model in sorted(set(models.tolist()) - {one.model for one in others}):
            yield Rows(model, images[models == model], texts[models == model])


def _below(folder: Path) -> Path:
    below = folder / "other"
    below.mkdir()
    return below


def _unit(values: np.ndarray) -> np.ndarray:
    rows = values.astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
