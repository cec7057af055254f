"""Pictures that are never trained on, by class, with the prompts that stand for each class.

In: a folder with one folder of pictures a class, named for it, and perhaps ``classes.json``: prompts by class. Out: ``HeldOut``.
Guaranteed: classes and pictures in the order of their names; without ``classes.json`` the prompts are a few of those that CLIP's authors
used. What does not belong here: where the pictures come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wat2mds.errors import ConfigError

CLASSES = "classes.json"
# From openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb: the seven that they found to do nearly as well as all eighty.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class HeldOut:
    """``prompts``: by class, in the order that ``labels`` count them in. ``labels``: one a picture. ``pictures``: their bytes."""

    prompts: dict[str, list[str]]
    labels: list[int]
    pictures: list[bytes]


def read_held_out(folder: Path) -> HeldOut:
    """Raises ConfigError for a folder that holds no two classes, or a class without pictures or prompts."""
    names = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    if len(names) < 2:
        raise ConfigError(f"{folder} holds {len(names)} folders: one of pictures a class is wanted, of two classes or more")
    stated = json.loads((folder / CLASSES).read_text("utf-8")) if (folder / CLASSES).is_file() else {}
    prompts = {name: list(stated.get(name) or [template.format(name) for template in TEMPLATES]) for name in names}
    labels: list[int] = []
    pictures: list[bytes] = []
    for label, name in enumerate(names):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in _PICTURES)
        if not found:
            raise ConfigError(f"{folder / name} holds no pictures ({', '.join(sorted(_PICTURES))})")
        labels += [label] * len(found)
        pictures += [path.read_bytes() for path in found]
    return HeldOut(prompts, labels, pictures)


def write_held_out(folder: Path, prompts: Mapping[str, Sequence[str]], pictures: Iterable[tuple[str, bytes]]) -> None:
    """``pictures``: class and JPEG bytes of each."""
    for number, (name, content) in enumerate(pictures):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number:05d}.jpg").write_bytes(content)
    (folder / CLASSES).write_text(json.dumps(prompts, indent=1, sort_keys=True), "utf-8")
