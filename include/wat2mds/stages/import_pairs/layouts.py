"""Known layouts: which column of a published list holds what.

In: a file's column names in their order. Out: the first layout whose telling columns are all there, or a DataError that lists what was
found and what is known. Columns that a layout does not name are left out. Sources: the lists' own files and documentation, named
beside each. What does not belong here: what is wrong with a row (``rows.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wat2mds.errors import DataError

URL, TEXT = "url", "text"
_URL_SIZE = re.compile(r"(?<![0-9A-Za-z])([1-9]\d{1,3})x([1-9]\d{1,3})(?![0-9A-Za-z])")
# So many URLs that name the image's size settle the question, when so large a share of them agrees.
MIN_VOTES, MIN_AGREEMENT = 20, 0.9


@dataclass(frozen=True)
class Layout:
    """``tells``: the columns that it is recognised by; ``columns``: ours to theirs, the first that is there.

    ``early``: LAION's releases before the joined ones. Their worker returned (width, height) into the columns HEIGHT, WIDTH, in this
    order (dbdl.py), so a file of theirs that has HEIGHT before WIDTH has them swapped; laion-prepro swapped them back when joining.
    """

    name: str
    tells: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    early: bool = False


_SCORES = {
    "source_hash": ("hash",),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark",),
    "aesthetic": ("aesthetic", "AESTHETIC_SCORE"),
}
_EARLY = {
    URL: ("URL",),
    TEXT: ("TEXT",),
    "source_id": ("SAMPLE_ID",),
    "width": ("WIDTH",),
    "height": ("HEIGHT",),
    "license": ("LICENSE",),
    "nsfw": ("NSFW",),
    "similarity": ("similarity",),
    "language": ("LANGUAGE",),
}
_LATE = {
    **_SCORES,
    "similarity": ("similarity",),
    "language": ("LANGUAGE", "language"),
    "md5": ("md5",),
    "sha256": ("sha256",),
    "source_id": ("key",),
}
_PAGE = {"page_url": ("webpage_url",), "license": ("license",), "license_type": ("license_type",), "source_id": ("id",)}

# The first that fits is taken: the telling ones come first.
LAYOUTS = (
    # opendatalab/laion5b-downloader, add_task.py
    Layout("opendatalab", ("id", "SAMPLE_ID", "URL", "TEXT", "image_suffix"), {**_EARLY, "source_id": ("id",)}, early=True),
    # laion.ai/blog/laion-400-open-dataset; laion2B-en and -multi were first released like this too, and our release view is
    Layout("laion400m", ("SAMPLE_ID", "URL", "TEXT"), {**_SCORES, **_EARLY}, early=True),
    # laion.ai/blog/laion-5b: the joined releases
    Layout(
        "laion5b",
        ("URL", "TEXT", "similarity"),
        {**_LATE, URL: ("URL",), TEXT: ("TEXT",), "width": ("WIDTH",), "height": ("HEIGHT",)},
    ),
    # Re-LAION, and LAION-5B as img2dataset hands it on
    Layout(
        "relaion",
        ("url", "caption", "similarity"),
        {
            **_LATE,
            URL: ("url",),
            TEXT: ("caption",),
            "width": ("original_width", "width"),
            "height": ("original_height", "height"),
        },
    ),
    # mlfoundations/datacomp, README
    Layout(
        "datacomp",
        ("uid", "url", "text", "original_width", "original_height"),
        {
            URL: ("url",),
            TEXT: ("text",),
            "source_id": ("uid",),
            "width": ("original_width",),
            "height": ("original_height",),
            "similarity": ("clip_b32_similarity_score",),
            "similarity_l14": ("clip_l14_similarity_score",),
            "sha256": ("sha256",),
        },
    ),
    # kakaobrain/coyo-dataset, README
    Layout(
        "coyo",
        ("id", "url", "text", "image_phash"),
        {
            URL: ("url",),
            TEXT: ("text",),
            "source_id": ("id",),
            "width": ("width",),
            "height": ("height",),
            "phash": ("image_phash",),
            "similarity": ("clip_similarity_vitb32",),
            "similarity_l14": ("clip_similarity_vitl14",),
            "punsafe": ("nsfw_score_opennsfw2",),
            "pwatermark": ("watermark_score",),
            "aesthetic": ("aesthetic_score_laion_v2",),
        },
    ),
    # ml6team/fondant: fondant-cc-25m's index (alt+text, webpage+url …) and its deduplicated form
    Layout("fondant", ("alt_text", "url", "license_type"), {**_PAGE, URL: ("url",), TEXT: ("alt_text",)}),
    Layout("fondant", ("alt_text", "image_url", "license_type"), {**_PAGE, URL: ("image_url",), TEXT: ("alt_text",)}),
    # rom1504/cc2dataset, main.py
    Layout("cc2dataset", ("url", "alt"), {URL: ("url",), TEXT: ("alt",), "source_id": ("uid",), "page_url": ("page_url",)}),
    # rom1504/img2dataset: what its url_col and caption_col are in its own examples
    *(
        Layout("img2dataset", names, {URL: names[:1], TEXT: names[1:], "sha256": ("sha256", "sha256hash"), "md5": ("md5",)})
        for names in (("url", "caption"), ("url", "text"), ("URL", "TEXT"), ("url", "txt"))
    ),
)


@dataclass(frozen=True)
class Recognised:
    """A file's layout: ours to the file's own column names; ``ignored`` are those left out."""

    layout: Layout
    columns: Mapping[str, str]
    ignored: tuple[str, ...]
    swapped_by_order: bool


def plain(name: str) -> str:
    """A column's name with fondant's ``+`` as the ``_`` that it stands for."""
    return name.replace("+", "_")


def recognise(names: Sequence[str], where: str) -> Recognised:
    """Raises DataError for columns that no layout knows."""
    own = {plain(name): name for name in reversed(names)}
    for layout in LAYOUTS:
        if all(column in own for column in layout.tells):
            chosen = {ours: next((own[name] for name in theirs if name in own), "") for ours, theirs in layout.columns.items()}
            columns = {ours: name for ours, name in chosen.items() if name}
            order = [columns.get(side) for side in ("height", "width")]
            by_order = layout.early and None not in order and names.index(str(order[0])) < names.index(str(order[1]))
            ignored = tuple(name for name in names if name not in columns.values())
            return Recognised(layout, columns, ignored, by_order)
    known = "; ".join(f"{layout.name} ({', '.join(layout.tells)})" for layout in LAYOUTS)
    raise DataError(
        f"{where}: its columns are of no known layout. Found: {', '.join(names) or 'none'}. Known layouts, each with the columns that "
        f"tell it: {known}. Rename the columns of URL and text to url and caption"
    )


@dataclass
class SizeVotes:
    """What URLs that name their image's size (``photo-300x200.jpg``) say about a list's width and height."""

    as_named: int = 0
    swapped: int = 0

    def add(self, rows: Iterable[tuple[str | None, float | None, float | None]]) -> None:
        """Rows of URL, width, height; those that are square or name another size say nothing."""
        for url, width, height in rows:
            if not url or not width or not height or width == height:
                continue
            sizes = {(int(a), int(b)) for a, b in _URL_SIZE.findall(url)}
            self.as_named += (width, height) in sizes
            self.swapped += (height, width) in sizes

    def verdict(self) -> bool | None:
        """Whether they are swapped; None where too few URLs tell, or they disagree."""
        votes = self.as_named + self.swapped
        if votes < MIN_VOTES or max(self.as_named, self.swapped) < MIN_AGREEMENT * votes:
            return None
        return self.swapped > self.as_named
