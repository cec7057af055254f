"""Keep or drop: a profile's thresholds applied to stored scores. Pure; the same scores and thresholds give the same decisions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wat2mds.drops import DropReason
from wat2mds.manifest import Flow
from wat2mds.stage_settings import FilterSettings
from wat2mds.stages.filter.copies import COLUMNS
from wat2mds.stages.filter.near import worse_copies

# The columns of scores that decisions are made from.
READS = (
    *("uid", "language", "language_probability", "similarity", "punsafe", "pwatermark", "aesthetic"),
    *("nsfw", "underage", "animal", "child_word", "toxicity", "listed_word"),
    *("caption_words", "caption_chars", "original_width", "original_height", "pdq", "pdq_quality"),
    *COLUMNS,
)


class Decisions(NamedTuple):
    """One entry a row of the scores, then one for each sample that was blocked before it was scored: drop reason (null: kept) and
    published language, all text."""

    uids: pa.Array
    reasons: pa.Array
    languages: pa.Array

    def flow(self) -> Flow:
        """The funnel's line."""
        counted = {entry["values"]: entry["counts"] for entry in pc.value_counts(self.reasons.drop_null()).to_pylist()}
        entered = len(self.reasons)
        return Flow("samples", "kept", entered, entered - sum(counted.values()), dict(sorted(counted.items())))


def decide(
    scores: pa.Table, settings: FilterSettings, blocked: Collection[str] = (), published: Iterable[np.ndarray] = ()
) -> Decisions:
    """The first criterion that fails names the reason. Thresholds are compared in double precision.

    ``blocked`` are uids on block lists; that comes before any score. A score that is null fails a criterion that asks for it: a profile
    that drops the unsafe keeps nothing it cannot judge. ``published`` are PDQ hashes that no kept image may be near (``near``).
    """
    reliable = _numbers(scores, "language_probability") >= settings.min_language_probability
    found = scores["language"].combine_chunks()
    languages = pc.if_else(pa.array(reliable), found, pa.scalar(None, pa.string()))
    english = _true(pc.equal(languages, "en"))
    similarity = _numbers(scores, "similarity")
    failed = {}
    if settings.placeholder_urls is not None:
        # What was not counted has no copies.
        many = _numbers(scores, "copies_urls") > settings.placeholder_urls
        failed[DropReason.PLACEHOLDER] = many & (_numbers(scores, "copies_hosts") >= settings.placeholder_hosts)
    # Written as "not passed", because a comparison with an absent score is false.
    failed |= {
        DropReason.LOW_SIMILARITY: ~(similarity >= np.where(english, settings.min_similarity, settings.min_similarity_other))
    }
    if settings.languages is not None:
        wanted = pc.is_in(languages, value_set=pa.array(settings.languages, pa.string()), skip_nulls=True)
        failed[DropReason.LANGUAGE] = ~_true(wanted)
    if settings.drop_illegal:
        # Of a sample without tags the worst is assumed.
        suspected = ~_true(pc.equal(scores["nsfw"], "UNLIKELY"))
        adult = _true(pc.invert(pc.or_(scores["underage"], scores["child_word"])))
        failed[DropReason.UNDERAGE] = suspected & ~adult
        failed[DropReason.ANIMAL] = suspected & ~_true(pc.invert(scores["animal"]))
    if settings.max_punsafe is not None:
        failed[DropReason.UNSAFE] = ~(_numbers(scores, "punsafe") <= settings.max_punsafe)
    if settings.max_punsafe_with_word is not None:
        worded = ~_true(pc.invert(scores["listed_word"]))
        failed[DropReason.UNSAFE_WORD] = worded & ~(_numbers(scores, "punsafe") <= settings.max_punsafe_with_word)
    if settings.max_toxicity is not None:
        failed[DropReason.TOXIC] = ~(_numbers(scores, "toxicity") <= settings.max_toxicity)
    if settings.max_pwatermark is not None:
        failed[DropReason.WATERMARKED] = ~(_numbers(scores, "pwatermark") <= settings.max_pwatermark)
    if settings.min_aesthetic is not None:
        failed[DropReason.LOW_AESTHETIC] = ~(_numbers(scores, "aesthetic") >= settings.min_aesthetic)
    if settings.min_caption_chars:
        failed[DropReason.FEW_CHARACTERS] = ~(_numbers(scores, "caption_chars") >= settings.min_caption_chars)
    if settings.min_caption_words:
        failed[DropReason.FEW_WORDS] = ~(_numbers(scores, "caption_words") >= settings.min_caption_words)
    width, height = _numbers(scores, "original_width"), _numbers(scores, "original_height")
    if settings.min_original_side:
        failed[DropReason.SMALL_ORIGINAL] = ~(np.minimum(width, height) >= settings.min_original_side)
    if settings.max_original_aspect is not None:
        # As a product, since a quotient is rounded.
        wide = np.maximum(width, height) <= settings.max_original_aspect * np.minimum(width, height)
        failed[DropReason.NARROW_ORIGINAL] = ~wide
    first = np.select(list(failed.values()), list(range(len(failed))), default=-1)
    names = pa.array([str(reason) for reason in failed], pa.string())
    uids = scores["uid"].combine_chunks()
    reasons = names.take(pa.array(first, mask=first < 0))
    if blocked:
        listed = pc.is_in(uids, value_set=pa.array(blocked, pa.string()))
        reasons = pc.if_else(listed, pa.scalar(str(DropReason.BLOCKED)), reasons)
    if settings.near_duplicates != "keep":
        # Last, among what would be kept: nothing gives way to an image that is itself dropped.
        alike = worse_copies(scores, np.asarray(pc.is_null(reasons)), published)
        reasons = pc.if_else(pa.array(alike), pa.scalar(str(DropReason.NEAR_DUPLICATE)), reasons)
    if not blocked:
        return Decisions(uids, reasons, languages)
    unscored = sorted(set(blocked) - set(uids.to_pylist()))
    more = [pa.array(unscored, pa.string()), pa.array([str(DropReason.BLOCKED)] * len(unscored), pa.string())]
    more.append(pa.nulls(len(unscored), pa.string()))
    return Decisions(*(pa.concat_arrays(pair) for pair in zip((uids, reasons, languages), more, strict=True)))


def _numbers(scores: pa.Table, name: str) -> np.ndarray:
    """A column in double precision, NaN for null."""
    values = pc.fill_null(scores[name].cast(pa.float64()), float("nan"))
    return np.asarray(values.to_numpy())


def _true(mask: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))
