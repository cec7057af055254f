"""Measures the tiny CLIP that `train_tiny.py` saved, trains its heads, and writes both down.

In: the model's folder, the figures of its training. Out: beside the model, `safety.safetensors`, `watermark.safetensors`,
`aesthetic.safetensors`, `metrics.json` and `README.md`. Guaranteed: everything is measured on the saved files, through
the code that the filter stage uses, on images as the download stage stores them; the threshold comes from the validation
split alone, precision and recall from the test split alone.
Does not belong here: training the model.
"""

# ruff: noqa: E501 - the rows of the README's tables
from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wat2mds.models import tiny_data as data
from wat2mds.models.clip import TINY, Clip, load_clip
from wat2mds.models.heads import Head, save_head
from wat2mds.world.draw import MARKS, Picture, all_pictures, appeal, caption

log = logging.getLogger(__name__)

MISMATCHES_PER_IMAGE = 10
HEAD_IMAGES = 8000
HEAD_WIDTHS = (32, 1)
LICENCE = "as wat2mds"
# Captions of other languages and of other things: none may look as if it described a drawing.
FOREIGN = (
    "drei kleine rote Kreise links auf blauem Grund",
    "trois petits cercles rouges à gauche sur un fond bleu",
    "tres círculos rojos pequeños a la izquierda",
    "青い背景の上の三つの小さな赤い円",
    "три маленьких красных круга слева",
    "A dog running on the beach at sunset",
    "IMG_2041.JPG",
    "Buy the new wireless headphones with free shipping today",
)


COSINES = ("matched", "mismatched", "unlike", "near_miss", "foreign")
PROCESSES = 2
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pairs:
    """Cosines of one split: each image with its own caption, and with others."""

    shown: list[Picture]
    images: Array
    matched: Array
    mismatched: Array
    unlike: Array
    near_miss: Array
    foreign: Array


def auc(positive: Array, negative: Array) -> float:
    """Chance that a positive scores above a negative, ties counting half."""
    values = np.concatenate([positive, negative])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(positive) * len(negative)))


def image_vectors(clip: Clip, pictures: Sequence[Picture], first_seed: int, mode: str | None = None, processes: int = 1) -> Array:
    """Embeddings of the pictures as stored at 256 px, through the model's own preprocessing."""
    from PIL import Image

    rows = []
    tasks = [(picture, first_seed + number, mode) for number, picture in enumerate(pictures)]
    for start in range(0, len(tasks), 1024):
        stored = data.stored_jpegs(tasks[start : start + 1024], processes)
        for first in range(0, len(stored), 128):
            rows.append(clip.encode_image([clip.pixels(Image.open(io.BytesIO(jpeg))) for jpeg in stored[first : first + 128]]))
    return np.concatenate(rows)


def measure_pairs(clip: Clip, pictures: Sequence[Picture], seed: int, mode: str | None = None, processes: int = 1) -> Pairs:
    """Each caption with one image; a fifth of them carry each mark.

    Mismatched: other captions of the split by chance. Unlike: captions wrong in everything. Near miss: in one thing.
    """
    rng = np.random.default_rng(seed)
    shown = data.with_random_marks(pictures, rng)
    images = image_vectors(clip, shown, seed * 1_000_000, mode, processes)
    texts = clip.encode_text([caption(picture) for picture in pictures])
    own = np.arange(len(pictures))
    other = (own[:, None] + rng.integers(1, len(pictures), size=(len(own), MISMATCHES_PER_IMAGE))) % len(pictures)
    everything = set(all_pictures())
    near = [caption(data.near_miss(picture, everything, rng)) for picture in shown]
    return Pairs(
        shown=shown,
        images=images,
        matched=(images * texts).sum(1),
        mismatched=np.einsum("id,ijd->ij", images, texts[other]).ravel(),
        unlike=(images * clip.encode_text([caption(data.unlike(picture, rng)) for picture in shown])).sum(1),
        near_miss=(images * clip.encode_text(near)).sum(1),
        foreign=(images @ clip.encode_text(FOREIGN).T).ravel(),
    )


def pooled(first: Pairs, second: Pairs) -> Pairs:
    joined = [np.concatenate([getattr(p, name) for p in (first, second)]) for name in ("images", *COSINES)]
    return Pairs([*first.shown, *second.shown], *joined)


def precision_at_10(cosines: Array, wanted: npt.NDArray[np.bool_]) -> float:
    """Mean over the queries of the share of their ten nearest images that are wanted; where fewer than ten are, of as many nearest.

    Both [queries, images]. A query for which no image is wanted does not count.
    """
    nearest = np.argsort(-cosines, axis=1, kind="stable")
    shares = [found[order[: min(10, found.sum())]].mean() for order, found in zip(nearest, wanted, strict=True) if found.any()]
    return float(np.mean(shares))


def retrieval(clip: Clip, test: Pairs) -> dict[str, float]:
    """Precision@10 among the split's images: of "red circle" and the other kinds, as words and as a sentence, and of each image, itself left out."""
    kinds = np.array([data.KINDS.index((picture.colour, picture.shape)) for picture in test.shown])
    of_kind = np.arange(len(data.KINDS))[:, None] == kinds
    alike = (kinds[:, None] == kinds) & ~np.eye(len(kinds), dtype=bool)
    short = [data.short_caption(*kind) for kind in data.KINDS]
    by_words, by_sentence = (clip.encode_text(texts) for texts in (short, [f"a photo of a {text}" for text in short]))
    among_images = test.images @ test.images.T
    np.fill_diagonal(among_images, -1.0)  # an image would be its own nearest
    return {
        "words": round(precision_at_10(by_words @ test.images.T, of_kind), 4),
        "sentence": round(precision_at_10(by_sentence @ test.images.T, of_kind), 4),
        "image": round(precision_at_10(among_images, alike), 4),
        "kinds_named": round(float((np.argmax(test.images @ by_words.T, axis=1) == kinds).mean()), 4),
    }


def choose_threshold(validation: Pairs) -> float:
    """Halfway between the 1st of 100 cosines of matched pairs and the 95th of 100 of mismatched ones, two digits.

    It keeps away from both kinds that the demo world holds: right captions, and captions wrong in everything. The demo knows in advance
    what must be published, so the distance counts for more than the last percent.
    """
    return round(float(np.quantile(validation.matched, 0.01) + np.quantile(validation.mismatched, 0.95)) / 2, 2)


def at_threshold(pairs: Pairs, threshold: float) -> dict[str, float]:
    """With as many mismatched as matched pairs: the share of kept that match, the share of matching that are kept."""
    recall = float((pairs.matched >= threshold).mean())
    false_keep = float((pairs.mismatched >= threshold).mean())
    return {
        "precision": round(recall / (recall + false_keep), 4),
        "recall": round(recall, 4),
        "mismatched_kept": round(false_keep, 4),
        "unlike_kept": round(float((pairs.unlike >= threshold).mean()), 4),
        "near_miss_kept": round(float((pairs.near_miss >= threshold).mean()), 4),
        "foreign_kept": round(float((pairs.foreign >= threshold).mean()), 4),
    }


def _spread(cosines: Array) -> dict[str, float]:
    names = {"min": 0.0, "p1": 0.01, "median": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(float(np.quantile(cosines, share)), 3) for name, share in names.items()}


def train_head(name: str, embeddings: Array, target: Array, output: str, identity: str, seed: int) -> Head:
    """A layer of 32 and one number; sigmoid heads learn a class, identity heads a value."""
    import torch

    torch.manual_seed(seed)
    widths = (embeddings.shape[1], *HEAD_WIDTHS)
    layers = [torch.nn.Linear(widths[0], widths[1]), torch.nn.Linear(widths[1], widths[2])]
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    x, y = torch.from_numpy(embeddings), torch.from_numpy(target.astype(np.float32))
    lift = float(target.mean()) if output == "identity" else 0.0
    with torch.no_grad():
        layers[1].bias.fill_(lift)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=1e-3)
    steps = 1500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (512,))
        guess = network(x[rows])[:, 0]
        if output == "sigmoid":
            loss = torch.nn.functional.binary_cross_entropy_with_logits(guess, y[rows])
        else:
            loss = torch.nn.functional.mse_loss(guess, y[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    state = {f"layers.{name}": tensor.detach().numpy() for name, tensor in torch.nn.ModuleList(layers).state_dict().items()}
    source = "python -m wat2mds.models.train_tiny, drawn pictures"
    return Head(name, identity, widths, "l2", output, source, LICENCE, state)


def make_heads(clip: Clip, out: Path, train: Sequence[Picture], test: Pairs, seed: int) -> dict[str, Any]:
    """Trained on new drawings of the training captions, measured on the test split's."""
    identity = tiny_identity(clip)
    rng = np.random.default_rng(seed + 7)
    shown = data.with_random_marks([train[i] for i in rng.integers(0, len(train), HEAD_IMAGES)], rng)
    vectors = image_vectors(clip, shown, 500_000_000 + seed, processes=PROCESSES)
    figures: dict[str, Any] = {}
    for name, mark in (("safety", "warning"), ("watermark", "watermark")):
        target = np.array([picture.mark == mark for picture in shown])
        head = train_head(name, vectors, target, "sigmoid", identity, seed)
        save_head(out / f"{name}.safetensors", head)
        scores, truth = head.score(test.images), np.array([picture.mark == mark for picture in test.shown])
        figures[name] = {
            "auc": round(auc(scores[truth], scores[~truth]), 4),
            "marked": _spread(scores[truth]),
            "unmarked": _spread(scores[~truth]),
            "marked_above_half": round(float((scores[truth] > 0.5).mean()), 4),
            "unmarked_above_half": round(float((scores[~truth] > 0.5).mean()), 4),
        }
    head = train_head("aesthetic", vectors, np.array([appeal(p) for p in shown]), "identity", identity, seed)
    save_head(out / "aesthetic.safetensors", head)
    scores, truth = head.score(test.images), np.array([appeal(p) for p in test.shown])
    figures["aesthetic"] = {
        "correlation": round(float(np.corrcoef(scores, truth)[0, 1]), 4),
        "mean_absolute_error": round(float(np.abs(scores - truth).mean()), 3),
        "scores": _spread(scores),
    }
    return figures


def tiny_identity(clip: Clip) -> str:
    """The identity that the folder will have as `wat2mds-tiny`."""
    return clip.identity.replace("local-dir", TINY, 1)


def finish(out: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Everything after the weights are saved; returns what `metrics.json` holds."""
    clip = load_clip(f"local-dir:{out}", "", device="cpu")
    splits = data.split_pictures()
    seed = int(training["seed"]) + 1
    modes = ("border", "keep_ratio")
    validation = pooled(*(measure_pairs(clip, splits.validation, 100 + seed, mode, PROCESSES) for mode in modes))
    by_mode = {mode: measure_pairs(clip, splits.test, 200 + seed, mode, PROCESSES) for mode in modes}
    test = pooled(by_mode["border"], by_mode["keep_ratio"])
    threshold = choose_threshold(validation)
    signs = {mark or "none": test.matched[[picture.mark == mark for picture in test.shown]] for mark in ("", *MARKS)}
    metrics = {
        "training": training,
        "identity": tiny_identity(clip),
        "sha256": clip.describe()["sha256"],
        "dim": clip.dim,
        "splits": {name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        "threshold": threshold,
        "validation": {
            "auc": round(auc(validation.matched, validation.mismatched), 5),
            **at_threshold(validation, threshold),
        },
        "test": {
            "auc": round(auc(test.matched, test.mismatched), 5),
            "auc_near_miss": round(auc(test.matched, test.near_miss), 4),
            **at_threshold(test, threshold),
        },
        "cosines": {mode: {kind: _spread(getattr(pairs, kind)) for kind in COSINES} for mode, pairs in by_mode.items()},
        "matched_by_mark": {mark: _spread(cosines) for mark, cosines in signs.items()},
        "precision_at_10": retrieval(clip, test),
        "heads": make_heads(clip, out, splits.train, test, seed),
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_readme(metrics), encoding="utf-8")
    log.info("test AUC %s, threshold %s: %s", metrics["test"]["auc"], threshold, metrics["test"])
    return metrics


def _readme(metrics: dict[str, Any]) -> str:
    training, test, heads, found = metrics["training"], metrics["test"], metrics["heads"], metrics["precision_at_10"]
    rows = [
        f"| {mode} | {kind.replace('_', ' ')} | " + " | ".join(f"{value:.3f}" for value in spread.values()) + " |"
        for mode, kinds in metrics["cosines"].items()
        for kind, spread in kinds.items()
    ]
    marks = [
        f"| {mark} | " + " | ".join(f"{value:.3f}" for value in spread.values()) + " |"
        for mark, spread in metrics["matched_by_mark"].items()
    ]
    classes = [
        f"| {name} | {heads[name]['auc']:.4f} | {heads[name]['marked_above_half']:.4f} |"
        f" {heads[name]['unmarked_above_half']:.4f} | {heads[name]['marked']['min']:.3f} |"
        f" {heads[name]['unmarked']['max']:.3f} |"
        for name in ("safety", "watermark")
    ]
    head_lines, spread_head = "\n".join(classes), "| min | 1st of 100 | median | 99th of 100 | max |"
    return f"""# wat2mds-tiny

A CLIP of {training["parameters"] / 1e6:.2f} million parameters that knows coloured shapes, so that tests and the demo score images
offline through the same open_clip code as OpenAI's ViT-B/32 does in production. It knows nothing of photographs.

Generated, with `metrics.json`, by the training command:

    python -m wat2mds.models.train_tiny --out include/wat2mds/models/tiny --seed {training["seed"]}

{training["steps"]} steps of {training["batch"]} images: {training["drawing_seconds"]} s to draw the images by two processes, and {training["training_cpu_seconds"]} CPU seconds
to train by one thread ({training["training_seconds"]} s, with other work beside it). The same seed gives the same weights on the same machine and packages.

| File | Holds |
|---|---|
| `open_clip_config.json`, `open_clip_model.safetensors` | ModifiedResNet ({data.IMAGE_SIDE} px) and a text transformer of two layers, half precision |
| `tokenizer.json`, `tokenizer_config.json` | one token a word of the captions, an unknown token for all other words, {data.CONTEXT_LENGTH} tokens at most |
| `safety.safetensors` | punsafe: a striped hazard border, the demo's stand-in for unsafe |
| `watermark.safetensors` | pwatermark: translucent slanted lettering |
| `aesthetic.safetensors` | aesthetic: guesses `world.draw.appeal`, a made-up beauty from 1 to 10 |

Identity: `{metrics["identity"]}` (`clip.model_identity`).

## Data

Pictures drawn by `wat2mds.world.draw`: {sum(metrics["splits"].values())} captions such as "three small red circles at the left on a blue
background", split by caption into {metrics["splits"]["train"]} for training ({training["train_images"]} images), {metrics["splits"]["validation"]} for validation and
{metrics["splits"]["test"]} for test. Neither pictures nor captions of the test split were seen in training. Images take the way of a run: drawn at
96 to 560 px in several proportions, JPEG, brought to 256 px (`border` or `keep_ratio`), JPEG of quality 95, then the model's
preprocessing. A fifth have a hazard border, a fifth a watermark. Training texts also get unknown words around them, captions that are wrong
in one thing only, and captions that describe no drawing. A margin in the loss and a low ceiling of its scale spread the cosines. Beside CLIP's
loss the training knows each picture's colour and shape: an image is to be nearest to the short caption of both ("red circle", "a photo of a
red circle"), and to images of the same (supervised contrastive learning), whatever the background, place and size. Linear probes, the
same for images and captions, are trained along and not kept; one of them sees marks, so that the heads can, for no caption mentions them.

## Search

Precision@10 on the test split's {2 * metrics["splits"]["test"]} images, right being the colour and shape that are drawn: **{found["words"]:.3f}** by two words
("red circle", all {len(data.KINDS)}), {found["sentence"]:.3f} by a sentence ("a photo of a red circle"), **{found["image"]:.3f}** by each of the images, itself left out. Of
{found["kinds_named"]:.1%} of the images the nearest of the {len(data.KINDS)} two words are the right ones.

## Similarity

Matched against mismatched pairs (another caption of the split by chance) on the test split: **AUC {test["auc"]:.4f}**; against captions
wrong in one word: {test["auc_near_miss"]:.4f}.

Threshold of the `demo` profile: **{metrics["threshold"]}**, halfway between the 1st of 100 cosines of matched pairs and the 95th of 100 of
mismatched ones on the validation split, so that right captions and captions wrong in everything, the demo world's two kinds, both lie well away. On the test split, with as many mismatched as matched pairs: **precision {test["precision"]:.4f}, recall {test["recall"]:.4f}**; kept are
{test["mismatched_kept"]:.2%} of the mismatched, {test["unlike_kept"]:.2%} of captions wrong in everything, {test["near_miss_kept"]:.1%} of captions wrong in one word, {test["foreign_kept"]:.2%} of captions in other languages or on other things.

Cosines on the test split at 256 px, by resize mode:

| Mode | Pairs {spread_head}
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Matched pairs by mark, both modes:

| Mark {spread_head}
|---|---|---|---|---|---|
{chr(10).join(marks)}

## Heads, on the test split

| Head | AUC | marked above 0.5 | unmarked above 0.5 | lowest marked | highest unmarked |
|---|---|---|---|---|---|
{head_lines}

Aesthetic: correlation {heads["aesthetic"]["correlation"]:.3f} with `appeal`, mean absolute error {heads["aesthetic"]["mean_absolute_error"]:.2f}; scores from {heads["aesthetic"]["scores"]["min"]:.1f} to {heads["aesthetic"]["scores"]["max"]:.1f}.

## Limits

- Of use for this project's drawings only. On photographs, or captions of other words, its numbers mean nothing.
- English words of the captions alone are known; another language is a row of unknown tokens and scores low.
- A caption that is wrong in one word often still passes the threshold: see "near miss".
- "Unsafe", "watermark" and "aesthetic" are drawn signs. The heads detect no such thing in real images.
- Trained on sides of 96 px and more, none more than 1.8 times the other.
"""
