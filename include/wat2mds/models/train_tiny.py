"""Trains the tiny CLIP and its heads on drawn pictures: `python -m wat2mds.models.train_tiny --out DIR --seed 0`.

In: a folder to write, a seed. Out: the folder that `clip.load_clip("wat2mds-tiny")` reads (config, weights, tokenizer),
three heads, `metrics.json`, `README.md`. Guaranteed: the same seed on the same machine and packages gives the same weights
(steps are counted, not timed); pictures and captions of the test split are never trained on or used to choose anything.
Does not belong here: loading a model for use (`clip.py`), measuring it (`tiny_report.py`).
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from wat2mds.models import tiny_data as data
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.world.draw import Picture, caption

log = logging.getLogger(__name__)

IMAGES_PER_CAPTION = 2
STEPS = 900
BATCH = 128
NEAR_MISSES = 48  # captions a batch that are wrong in one thing only
JUNK = 16  # captions a batch that describe no drawing
WARM_UP = 100
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
MAX_LOGIT_SCALE = 40.0  # a low ceiling (CLIP's is 100) spreads the cosines, so one threshold can part them
KIND_SCALE = 20.0  # of the losses over kinds; a kind is a colour and a shape
# Cosines that the margin term asks for; a mismatched caption may name the picture's kind, and be wrong in the rest.
MATCHED_AT_LEAST, MISMATCHED_AT_MOST, SAME_KIND_AT_MOST, HARDEST_AT_MOST = 0.85, 0.1, 0.5, 0.4
MARGIN_WEIGHT, KIND_WEIGHT = 4.0, 1.0
# Shapes are the hardest to see: without a probe of this weight they are learnt three times later.
PROBE_WEIGHTS = {"shape": 1.0, "colour": 0.2, "background": 0.1, "count": 0.2, "size": 0.1, "position": 0.1, "mark": 0.6}
MOVE = 3  # pixels
THREADS = 1

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def open_clip_config(vocab_size: int) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": 96,
            # open_clip's ModifiedResNet: on two cores twice the images a second of a ViT, and quicker to learn shapes.
            "vision_cfg": {"image_size": data.IMAGE_SIDE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
            "text_cfg": {
                "context_length": data.CONTEXT_LENGTH,
                "vocab_size": vocab_size,
                "hf_tokenizer_name": "wat2mds-tiny",  # any name: with local-dir, open_clip takes the folder itself
                "width": 64,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def train(out: Path, seed: int, steps: int = STEPS) -> dict[str, Any]:
    """Writes config, tokenizer and weights into `out`; returns figures of the training itself."""
    declare_torchvision_ops()
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    began = time.monotonic()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    splits = data.split_pictures()
    words = data.vocabulary(splits.train)
    config = open_clip_config(len(words))
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    data.write_tokenizer(out, words)

    pool = data.with_random_marks(splits.train * IMAGES_PER_CAPTION, rng)
    seeds = [seed * 1_000_000 + number for number in range(len(pool))]
    pixels = torch.from_numpy(data.draw_all(list(zip(pool, seeds, strict=True)))).permute(0, 3, 1, 2)
    drawing_seconds = time.monotonic() - began
    log.info("drew %d images in %.0f s", len(pool), drawing_seconds)

    torch.set_num_threads(THREADS)
    cpu_began = time.process_time()
    # Channels last and bfloat16 halve the processor's time.
    model = CLIP(**config["model_cfg"]).to(memory_format=torch.channels_last)
    probes = torch.nn.ModuleDict(
        {name: torch.nn.Linear(config["model_cfg"]["embed_dim"], len(values)) for name, values in data.PROBED.items()}
    )
    parameters = [*model.parameters(), *probes.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=min(0.3, WARM_UP / steps), div_factor=20
    )
    per_copy = len(splits.train)
    allowed = set(splits.train)
    model.train()
    for step, captions_chosen in enumerate(_batches(per_copy, steps, rng)):
        copies = rng.integers(0, IMAGES_PER_CAPTION, size=len(captions_chosen))
        chosen = captions_chosen + copies * per_copy
        pictures = [pool[i] for i in chosen]
        described = pictures + [data.near_miss(p, allowed, rng) for p in pictures[:NEAR_MISSES]]
        texts = data.token_rows([caption(p) for p in described], words, rng)
        kind_texts = data.token_rows([data.short_caption(*kind, rng) for kind in data.KINDS], words, rng)
        tokens = torch.from_numpy(np.concatenate([texts, data.junk_rows(JUNK, words, rng), kind_texts]))
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.encode_image(_augmented(pixels[torch.from_numpy(chosen)], rng))
            read = model.encode_text(tokens)
        image_vectors, text_vectors = (torch.nn.functional.normalize(v.float(), dim=-1) for v in (seen, read))
        text_vectors, kind_vectors = text_vectors[: -len(data.KINDS)], text_vectors[-len(data.KINDS) :]
        kinds = torch.tensor([data.KINDS.index((p.colour, p.shape)) for p in described])
        loss = contrastive_loss(image_vectors, text_vectors, model.logit_scale.exp(), kinds)
        loss = loss + KIND_WEIGHT * kind_loss(image_vectors, kind_vectors, kinds[: len(pictures)])
        loss = loss + probe_loss(probes, image_vectors, text_vectors, described)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(MAX_LOGIT_SCALE)))
        if step % 25 == 0 or step == steps - 1:
            right = (image_vectors * text_vectors[: len(pictures)]).sum(1)
            named = (image_vectors @ kind_vectors.T).argmax(1) == kinds[: len(pictures)]
            log.info(
                "step %d of %d, loss %.3f, matched cosine %.3f, kinds right %.2f, %.0f s",
                *(step, steps, loss.item(), right.mean().item(), named.float().mean().item(), time.monotonic() - began),
            )

    # Half precision halves the file; running statistics keep theirs, for their range is not bounded.
    state = {
        name: (value.half() if value.is_floating_point() and "running_" not in name else value).contiguous()
        for name, value in model.state_dict().items()
    }
    weights = out / "open_clip_model.safetensors"
    save_file(state, weights, metadata={"format": "pt", "name": "wat2mds-tiny"})
    weights.chmod(0o644)  # safetensors writes for the owner alone
    return {
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_captions": len(splits.train),
        "train_images": len(pool),
        "drawing_seconds": round(drawing_seconds),
        "training_seconds": round(time.monotonic() - began - drawing_seconds),
        "training_cpu_seconds": round(time.process_time() - cpu_began),
    }


def contrastive_loss(images: Any, texts: Any, scale: Any, kinds: Any) -> Any:
    """CLIP's loss, where texts beyond the images match none of them, and a margin that makes one threshold fit all pairs.

    `kinds`: the numbers of the texts' kinds; texts beyond those describe nothing.
    """
    import torch
    from torch.nn.functional import cross_entropy, relu

    count = len(images)
    cosines = images @ texts.T
    truth = torch.arange(count)
    both_ways = (cross_entropy(scale * cosines, truth) + cross_entropy(scale * cosines[:, :count].T, truth)) / 2
    matched = cosines[:, :count].diagonal()
    own, alike = torch.zeros_like(cosines, dtype=torch.bool), torch.zeros_like(cosines, dtype=torch.bool)
    own[truth, truth] = True
    alike[:, : len(kinds)] = kinds[:count, None] == kinds
    others = cosines.masked_fill(alike, -1.0)
    same_kind = cosines.masked_fill(~alike | own, -1.0)
    easy = relu(MATCHED_AT_LEAST - matched).square().mean() + relu(others - MISMATCHED_AT_MOST).square().mean()
    hard = relu(others.amax(dim=1) - HARDEST_AT_MOST).square().mean()
    hard = hard + relu(same_kind - SAME_KIND_AT_MOST).square().sum(dim=1).mean()
    return both_ways + MARGIN_WEIGHT * easy + hard


def kind_loss(images: Any, kind_texts: Any, kinds: Any) -> Any:
    """An image is nearer to its kind's short caption than to other kinds', and the other way; nearer to images of its kind than to others.

    Of the images of one kind in a batch each counts alike (supervised contrastive learning, Khosla et al. 2020).
    """
    import torch
    from torch.nn.functional import cross_entropy

    cosines = KIND_SCALE * images @ kind_texts.T
    named = cross_entropy(cosines, kinds)
    shown = torch.nn.functional.one_hot(kinds, len(kind_texts)).T.float()
    found = _mean_log_chance(cosines.T, shown)
    itself = torch.eye(len(images), dtype=torch.bool)
    among_images = (KIND_SCALE * images @ images.T).masked_fill(itself, -1e4)
    return named + found + _mean_log_chance(among_images, ((kinds[:, None] == kinds) & ~itself).float())


def _mean_log_chance(cosines: Any, wanted: Any) -> Any:
    """Minus the mean log of the share that softmax gives what is wanted, over the rows that want anything."""
    count = wanted.sum(dim=1)
    each = (cosines.log_softmax(dim=1) * wanted).sum(dim=1)[count > 0] / count[count > 0]
    return -each.mean()


def probe_loss(probes: Any, images: Any, texts: Any, described: list[Picture]) -> Any:
    """One linear probe reads what a picture shows off its vector and off its caption's; a mark, which no caption names, off images alone.

    `described`: what the texts describe; the first are the images' own.
    """
    import torch
    from torch.nn.functional import cross_entropy

    loss = torch.zeros(())
    for name, weight in PROBE_WEIGHTS.items():
        truth = torch.tensor([data.PROBED[name].index(getattr(picture, name)) for picture in described])
        loss = loss + weight * cross_entropy(probes[name](8 * images), truth[: len(images)])
        if name != "mark":
            loss = loss + weight * cross_entropy(probes[name](8 * texts[: len(described)]), truth)
    return loss


def _batches(captions: int, steps: int, rng: np.random.Generator) -> Any:
    """Numbers of captions, none twice in a batch, each as often as the others."""
    order = rng.permutation(captions)
    at = 0
    for _ in range(steps):
        if at + BATCH > captions:
            order, at = rng.permutation(captions), 0
        yield order[at : at + BATCH]
        at += BATCH


def _augmented(pixels: Any, rng: np.random.Generator) -> Any:
    """Normalised pixels, each image a little brighter or darker and moved by up to MOVE pixels."""
    import torch

    count, side = len(pixels), data.IMAGE_SIDE
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, size=(count, 1, 1, 1)).astype(np.float32))
    lift = torch.from_numpy(rng.uniform(-0.15, 0.15, size=(count, 1, 1, 1)).astype(np.float32))
    images = (pixels.float() / 255 - 0.5) / 0.25 * gain + lift
    padded = torch.nn.functional.pad(images, (MOVE, MOVE, MOVE, MOVE), mode="replicate")
    moves = rng.integers(0, 2 * MOVE + 1, size=(count, 2))
    moved = torch.stack([i[:, y : y + side, x : x + side] for i, (y, x) in zip(padded, moves, strict=True)])
    return moved.contiguous(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tiny CLIP and its heads on drawn pictures.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="whole number; the committed model's is 0")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of {BATCH} images (default {STEPS})")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    figures = train(options.out, options.seed, options.steps)
    from wat2mds.models.tiny_report import finish

    finish(options.out, figures)


if __name__ == "__main__":
    main()
