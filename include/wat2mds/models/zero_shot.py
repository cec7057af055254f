"""LAION-400M's zero-shot tags: which categories' texts an image's embedding is nearest to, by the CLIP model itself.

In: a loaded CLIP, embeddings, captions. Out: the score columns nsfw, underage, animal and child_word. Guaranteed: the categories and
the rules are the published ones (``zero_shot.toml`` names their source; laion.ai/blog/laion-400-open-dataset), without the index
slip of the published code; of equal similarities the earlier category wins. What does not belong here: whom to drop (the filter's
decisions).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from wat2mds.models.clip import Clip

# The published code's keywords. It compares case-sensitively; here in any case, which finds all that it finds.
CHILD_WORDS = ("teen", "kid", "child", "baby")
TAGS = ("UNLIKELY", "UNSURE", "NSFW")


@dataclass(frozen=True)
class Group:
    """One list of categories: unit vectors [n, dim] float32, and which of them are the ones looked for."""

    prompts: tuple[str, ...]
    vectors: np.ndarray
    wanted: np.ndarray

    def nearest(self, images: np.ndarray, count: int) -> np.ndarray:
        """bool [rows, count]: whether the nearest, second nearest … category is one of those looked for."""
        order = np.argsort(-(images @ self.vectors.T), axis=1, kind="stable")[:, :count]
        return np.asarray(self.wanted[order])


@dataclass(frozen=True)
class ZeroShot:
    """The three lists, embedded by one model."""

    nsfw: Group
    underage: Group
    animal: Group

    def score(self, images: np.ndarray, captions: Sequence[str]) -> dict[str, Any]:
        """Columns for image embeddings float32 [n, dim] of length one and their captions.

        nsfw: of the two nearest categories both are explicit (NSFW), one (UNSURE) or none (UNLIKELY). underage: the nearest or the
        second nearest category of age is under age. animal: the nearest category of things is an animal. child_word: the caption
        holds one of CHILD_WORDS, in whatever case, inside other words too.
        """
        explicit = self.nsfw.nearest(images, 2).sum(axis=1)
        return {
            "nsfw": [TAGS[count] for count in explicit],
            "underage": self.underage.nearest(images, 2).any(axis=1),
            "animal": self.animal.nearest(images, 1)[:, 0],
            "child_word": [any(word in caption.lower() for word in CHILD_WORDS) for caption in captions],
        }


def categories() -> dict[str, dict[str, list[str]]]:
    """The lists: name, then prompts by group. The group looked for has the list's own name."""
    text = (resources.files("wat2mds") / "models" / "zero_shot.toml").read_text("utf-8")
    return tomllib.loads(text)


def load_zero_shot(clip: Clip) -> ZeroShot:
    """Embeds the categories' texts with the model."""
    groups = {}
    for name, lists in categories().items():
        prompts = [prompt for group in lists.values() for prompt in group]
        wanted = [group == name for group, listed in lists.items() for _ in listed]
        groups[name] = Group(tuple(prompts), clip.encode_text(prompts), np.array(wanted))
    return ZeroShot(**groups)
