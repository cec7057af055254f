"""Keep or drop: a profile's thresholds applied to stored scores. Pure; the same scores and thresholds give the same decisions."""

from __future__ import annotations

import pyarrow as pa

from wat2mds.drops import DropReason
from wat2mds.settings import FilterSettings


def decide(scores: pa.Table, settings: FilterSettings) -> tuple[list[str | None], list[str | None]]:
    """Drop reason (None: kept) and published language of each sample. The first criterion that fails names the reason.

    A score that is null fails a criterion that asks for it: a profile that drops the unsafe keeps nothing it cannot judge.
    """
    reasons: list[str | None] = []
    languages: list[str | None] = []
    names = ("language", "language_probability", "similarity", "punsafe", "pwatermark", "aesthetic")
    for language, probability, similarity, punsafe, pwatermark, aesthetic in zip(
        *(scores.column(name).to_pylist() for name in names), strict=True
    ):
        found = language if language and (probability or 0.0) >= settings.min_language_probability else None
        languages.append(found)
        threshold = settings.min_similarity if found == "en" else settings.min_similarity_other
        reason: DropReason | None = None
        if similarity is None or similarity < threshold:
            reason = DropReason.LOW_SIMILARITY
        elif settings.languages is not None and found not in settings.languages:
            reason = DropReason.LANGUAGE
        elif settings.max_punsafe is not None and (punsafe is None or punsafe > settings.max_punsafe):
            reason = DropReason.UNSAFE
        elif settings.max_pwatermark is not None and (pwatermark is None or pwatermark > settings.max_pwatermark):
            reason = DropReason.WATERMARKED
        elif settings.min_aesthetic is not None and (aesthetic is None or aesthetic < settings.min_aesthetic):
            reason = DropReason.LOW_AESTHETIC
        reasons.append(str(reason) if reason else None)
    return reasons, languages
