"""Where a dataset made here differs from LAION's on purpose, and what it is known not to be; in words, for cards.

In: a version and its statistics. Out: (what, why) in plain text. Guaranteed: what depends on settings is said of the version's own. What
does not belong here: what LAION did in full (the profiles, ``drops.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

from wat2mds.derived.statistics import Statistics
from wat2mds.settings import Settings

Point = tuple[str, str]


def deviations(settings: Settings, statistics: Statistics) -> list[Point]:
    """Sources: LAION's blog posts, and its workers' code (crawlingathome-worker, crawlingathome-gpu-hcloud)."""
    return [
        *_pairs(settings),
        *_dedup(settings),
        *_download(settings),
        *_scores(settings, statistics),
        (
            "SAMPLE_ID",
            "It is mmh3.hash64(URL + TEXT), the key of LAION-5B's tag files (column hash), not a running number; "
            "the join key here is uid, of the normalised URL and the caption.",
        ),
        (
            "WIDTH, HEIGHT",
            "They are what they say, of the original: LAION's early releases had the two swapped, and those above 4K scaled down.",
        ),
    ]


def _pairs(settings: Settings) -> Iterator[Point]:
    if settings.extract.compatibility:
        yield ("Pairs", "They are cc2dataset's own, for comparison: none of the rules about captions and URLs holds.")
        return
    yield (
        "Links",
        "Only IMG@/src links with alt text count. LAION's workers took every link with an alt, whatever its kind."
        + (" Where an image has no alt its title is taken." if settings.extract.title_fallback else ""),
    )
    yield (
        "Relative URLs",
        "They are resolved against the page and its <base>. LAION's workers checked URLs before joining them and lost these.",
    )
    yield (
        "Captions",
        "Entities are decoded, mojibake repaired, NFC, white space collapsed, control characters removed; nothing is replaced. "
        f"Those above {settings.extract.max_caption_chars:,} characters are dropped; LAION cut them, and replaced | and tabs.",
    )
    yield (
        "URLs",
        f"Those above {settings.extract.max_url_chars:,} characters are dropped, not cut; hosts that are no public names are dropped. "
        "What is no JPEG, PNG or WebP is found from the bytes; LAION also refused any URL with .gif in it.",
    )
    yield (
        "LICENSE",
        "It is chosen among all Creative Commons links of the page, rel=license first. In LAION's code a link decided for all "
        "links after it. Either way it is the page's licence, not the image's.",
    )


def _dedup(settings: Settings) -> Iterator[Point]:
    if settings.dedup.exact:
        how = "exact: the filter's hits are looked up in stored claims. LAION's bloom filters dropped some pairs by chance."
    else:
        how = (
            f"is a bloom filter's, with an error rate of {settings.dedup.false_positive_rate:g}, made from claims that are kept."
        )
    yield ("Deduplication", f"By normalised URL and caption, over all that was ever built into the dataset; {how}")
    yield (
        "Dead URLs",
        "They are not remembered between snapshots: LAION kept a second bloom filter of URLs that had timed out. "
        "Nothing is lost when a task is killed; LAION's workers marked pairs as seen before storing them.",
    )


def _download(settings: Settings) -> Iterator[Point]:
    download = settings.download
    obeyed = [
        name
        for name, wanted in (
            ("robots.txt", download.obey_robots_txt),
            ("X-Robots-Tag", download.obey_x_robots_tag),
            ("tdm-reservation", download.obey_tdm_reservation),
        )
        if wanted
    ]
    yield (
        "Opt-outs",
        (f"Obeyed: {', '.join(obeyed)}" if obeyed else "None obeyed, by this version's settings")
        + ", under an honest User-Agent. LAION's workers asked for none of them and posed as a browser.",
    )
    yield (
        "Network",
        "TLS certificates are verified, and only public addresses and the ports "
        f"{', '.join(map(str, download.allowed_ports))} are connected to. LAION's workers verified nothing.",
    )
    yield (
        "Orientation",
        "EXIF orientation is applied before resizing and measuring; img2dataset, with which LAION fetched its images, ignores it.",
    )
    if download.min_image_size or download.max_aspect_ratio:
        yield (
            "Size limits",
            f"Shorter side at least {download.min_image_size} px, aspect ratio at most {download.max_aspect_ratio or 'any'}; "
            "LAION had none.",
        )


def _scores(settings: Settings, statistics: Statistics) -> Iterator[Point]:
    chosen = settings.filter
    weights = file_name(chosen.clip_pretrained)
    if chosen.clip_model not in ("ViT-B-32", "ViT-B-32-quickgelu"):
        yield (
            "Model",
            f"{chosen.clip_model} ({weights}) in place of OpenAI's ViT-B/32: similarities are not comparable with LAION's, and the "
            f"thresholds "
            f"{chosen.min_similarity:g} and {chosen.min_similarity_other:g} are not ones that were published for it "
            "(wat2mds models calibrate shows which one keeps as many).",
        )
    elif chosen.clip_pretrained != "openai":
        yield (
            "Model",
            f"ViT-B/32 with the weights {weights}: similarities are comparable with LAION's, and its "
            "thresholds the published ones, only if these are OpenAI's (wat2mds models calibrate shows which threshold keeps as many).",
        )
    yield (
        "CLIP input",
        f"CLIP saw the stored image ({download_size(settings)}), as a reader of the shards has it; "
        "LAION scored the original, brought to 224 px.",
    )
    yield (
        "Languages",
        "They are lingua's, with a threshold on its probability; LAION used CLD2 and CLD3. "
        + (
            f"Kept: {', '.join(chosen.languages)}."
            if chosen.languages
            else "All are kept; LAION-400M kept English only."
            if settings.profile == "laion400m"
            else "All are kept."
        ),
    )
    if chosen.clip_model_other:
        yield (
            "Other languages",
            f"Captions that are not reliably English are scored by {chosen.clip_model_other} ({file_name(chosen.clip_pretrained_other)}); "
            "LAION-5B scored them with clip-ViT-B-32-multilingual-v1 on OpenAI's image tower. The threshold "
            f"{chosen.min_similarity_other:g} is not one that was published for this model: wat2mds models calibrate shows which one "
            "keeps as many.",
        )
    else:
        yield (
            "Other languages",
            "Captions in them are scored with the same text tower; LAION-5B scored them with a multilingual one.",
        )
    if statistics.samples and statistics.count("nsfw")[""] == statistics.samples:
        yield (
            "NSFW",
            "The tag is empty: LAION's zero-shot tags, and the keyword and category rules that dropped illegal "
            "content by them, were not applied."
            + (
                f" Images with punsafe above {chosen.max_punsafe:g} were dropped instead."
                if chosen.max_punsafe is not None
                else ""
            ),
        )


def file_name(name_or_path: str) -> str:
    """A model or head as the settings name it; of a file its name, since where it lay is nobody's business."""
    return name_or_path.rpartition("/")[2] if name_or_path.startswith(("/", ".", "~")) else name_or_path


def download_size(settings: Settings) -> str:
    download = settings.download
    return f"{download.image_size} px, {download.resize_mode}, {download.encode_format} quality {download.encode_quality}"


def limits(settings: Settings, statistics: Statistics) -> list[Point]:
    """What a user must know before using the dataset."""
    found = [
        (
            "Not safe by itself",
            "Filters alone are not reliable (LAION's own conclusion after Re-LAION). Match the stored hashes (md5, sha1, sha256, PDQ) "
            "with lists of known harmful content before showing or redistributing images.",
        ),
        ("Licences", "They are those of pages. Images belong to their authors; the metadata says where each was found."),
        ("Near duplicates", "The same image at another URL, or with another caption, is another sample, as in LAION."),
        (
            "Captions",
            "They are alt texts as people wrote them: noisy, biased, sometimes offensive, and with names of persons in them.",
        ),
        ("Reproducibility", "The web changes: what was fetched then may be gone. The hashes are of the bytes as fetched."),
    ]
    for name, what in (
        ("punsafe", "safety"),
        ("pwatermark", "watermark"),
        ("toxicity", "toxicity"),
        ("aesthetic", "aesthetic"),
    ):
        if statistics.samples and not statistics.numbers(name):
            found.append((name, f"The column is empty: no {what} head was configured."))
    if settings.filter.clip_model.startswith("wat2mds-tiny"):
        found.append(
            (
                "Tiny model",
                "Scores come from a small model trained on drawn pictures: it knows nothing of photographs. For demonstration only.",
            )
        )
    if settings.filter.min_similarity <= -1:
        found.append(
            (
                "No similarity filter",
                "This version's threshold keeps every pair, whether image and caption belong together or not.",
            )
        )
    return found
