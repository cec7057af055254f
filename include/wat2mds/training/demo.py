"""The demo's proof: its world enlarged, built once, published twice: as the demo's profile filters it, and unfiltered; pictures held out.

In: a folder, a seed. Out: two datasets below ``store/``, ``held-out/``. Guaranteed: both datasets hold the same crawl's pictures as
downloaded once, through the stages' own commands; the held-out pictures are drawn by another seed and published nowhere; a folder that is
complete is used as it is. What does not belong here: the world (``world/``), training.
"""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wat2mds.errors import Wat2MdsError
from wat2mds.plan import choose_wat_files, manifest_url, plan_run, stage_arguments
from wat2mds.settings import child_environment, load_settings
from wat2mds.snapshots import Registry
from wat2mds.store import Layout, join
from wat2mds.training.held_out import CLASSES, write_held_out
from wat2mds.versions import newest_version
from wat2mds.world.demo_world import NEWER, SEED, draw_world
from wat2mds.world.draw import Picture, all_pictures, caption, draw

log = logging.getLogger(__name__)
IMAGES, WRONG_SHARE = 3000, 0.3
HELD_OUT_A_CLASS, PROMPTS_A_CLASS = 10, 16
_SIDE = 256
# Whatever was downloaded: no threshold drops anything.
_UNFILTERED = ("filter.min_similarity=-1", "filter.min_similarity_other=-1", "filter.max_punsafe=1", "filter.max_pwatermark=1")
_STAGES = ("extract", "dedup", "download", "filter", "validate", "convert", "upload", "publish")


@dataclass(frozen=True)
class Prepared:
    """Datasets' URLs and the folder of held-out pictures."""

    filtered: str
    unfiltered: str
    held_out: Path


def prepare(folder: Path, seed: int = SEED, images: int = IMAGES, wrong_share: float = WRONG_SHARE) -> Prepared:
    """Draw, build, hold out. Raises Wat2MdsError where a stage fails."""
    root = (folder.absolute() / "store").as_uri()
    found = Prepared(Layout(root, "filtered").dataset, Layout(root, "unfiltered").dataset, folder / "held-out")
    if not (found.held_out / CLASSES).is_file():
        hold_out(found.held_out, seed + 1)
    if newest_version(found.filtered) is not None and newest_version(found.unfiltered) is not None:
        return found
    world = draw_world(folder / "world", seed, images=images, wrong_share=wrong_share)
    Registry(root).register(NEWER, collinfo=str(world.collinfo), source=str(world.crawl))
    with world.origin() as origin:
        given = [f"download.resolver={origin.address}", "download.processes=1"]
        chosen = choose_wat_files(Registry(root), partition_key=None, snapshot=NEWER, segment="0", wat_files="0")
        (unit,), (without,) = (
            plan_run(root, name, load_settings("demo", [*given, *more], environment={}), chosen)
            for name, more in (("filtered", ()), ("unfiltered", _UNFILTERED))
        )
        for stage in _STAGES:
            _run(stage_arguments(stage, [unit] if stage in ("dedup", "publish") else unit))
    settings = ["--settings", without["settings"]]
    samples = manifest_url(unit, "download")
    decided = _run(["filter", samples, "--out", join(unit["work"], "filter"), *settings])["manifest"]
    converted = _run(["convert", samples, decided, "--out", join(without["work"], "convert"), *settings])["manifest"]
    uploaded = _run(["upload", converted, "--to", found.unfiltered, "--out", join(without["work"], "upload"), *settings])[
        "manifest"
    ]
    _run(["publish", uploaded, "--dataset", found.unfiltered, "--batch", without["batch"], *settings])
    return found


def hold_out(folder: Path, seed: int) -> None:
    """Pictures of every colour on every background; the prompts of a class are captions of some of its pictures."""
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Picture]] = {}
    for picture in all_pictures():
        groups.setdefault(f"{picture.colour} on {picture.background}", []).append(picture)
    prompts: dict[str, list[str]] = {}
    shown: list[tuple[str, bytes]] = []
    for name, pictures in groups.items():
        order = rng.permutation(len(pictures))
        prompts[name] = [caption(pictures[at]) for at in order[:PROMPTS_A_CLASS]]
        for at in order[-HELD_OUT_A_CLASS:]:
            out = io.BytesIO()
            # The world draws with seeds from 0 on.
            draw(pictures[at], _SIDE, _SIDE, 10_000_000 + int(rng.integers(1_000_000_000))).save(out, "JPEG", quality=88)
            shown.append((name, out.getvalue()))
    write_held_out(folder, prompts, shown)


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    """One of our commands as a process of its own; its summary."""
    log.info("wat2mds %s", " ".join(arguments)[:200])
    command = [sys.executable, "-m", "wat2mds", *arguments]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Wat2MdsError(f"wat2mds {arguments[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary
