"""What is expected of one WAT file's tables, as Great Expectations suites.

In: data frames with what was computed again. Out: frames with their expectations. ``critical`` blocks the WAT file, ``warning`` is
reported. Guaranteed: an absent value never passes for a right one: Great Expectations skips nulls, so each column that must be there
has an expectation of its own. What does not belong here: reading tables (``frames``), running the suites (``gate``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from wat2mds.drops import DropReason
from wat2mds.identity import UID_PATTERN
from wat2mds.manifest import Flow
from wat2mds.models.pictures import PDQ_MATCH
from wat2mds.settings import Settings
from wat2mds.stages.validate.drift import Measure
from wat2mds.stages.validate.frames import Tables, counts
from wat2mds.stages.validate.gate import Checked, gxe

# Thresholds are compared in single precision by filter, in double precision here.
_ROUNDING = 1e-6
# float16 keeps 11 bits: a unit vector read from it has a norm within 0.001 of 1, and a cosine errs by as much.
_NORM = (0.995, 1.005)
_COSINE_ERROR = 0.01
_HEX = {"md5": 32, "sha1": 40, "sha256": 64}
_STATUSES = ["success", "failed_to_download", "failed_to_resize"]
_LANGUAGE = r"^[a-z]{2,3}$"
_LICENCE = r"^(?:https?:)?//(?:www\.)?creativecommons\.org/"
# The types of https://creativecommons.org/licenses/list.en and the two of the public domain (pairs/licenses.py).
_LICENCE_TYPES = [
    *("by", "by-nc", "by-nd", "by-sa", "by-nc-nd", "by-nc-sa", "by-nd-nc", "nc", "nc-sa", "nd", "nd-nc", "sa", "sampling"),
    *("devnations", "cc0", "pdm"),
]


def on_schemas(schemas: pd.DataFrame) -> Checked:
    rule = "columns and Arrow types are those of wat2mds.schema"
    return Checked("schema", "column", lambda: schemas, [_equal("schema.columns_and_types", rule, "found", "expected")])


def on_tables(tables: Tables, flows: Sequence[Flow], settings: Settings, unit: dict[str, str]) -> list[Checked]:
    agree = _equal("counts.agree", "tables and flows agree on every count", "found", "expected")
    return [
        Checked("pairs", "uid", tables.pairs, list(_pairs(settings, unit))),
        Checked("samples", "uid", tables.samples, list(_samples())),
        Checked("images", "uid", tables.images, list(_images(settings))),
        Checked("looked_at", "uid", tables.looked_at, list(_looked_at(settings))),
        Checked("scores", "uid", tables.scores, list(_scores())),
        Checked("decisions", "uid", tables.decisions, list(_decisions())),
        Checked("kept", "uid", tables.kept, list(_kept(settings))),
        Checked("counts", "what", lambda: counts(tables, flows), [agree]),
        _success(tables, settings),
    ]


def on_drift(measures: Sequence[Measure]) -> Checked:
    """One row; a column a measure, holding how far it is from what was published before."""
    row = {measure.name: [measure.difference] for measure in measures}
    expectations = []
    for measure in measures:
        for name, bound, severity in (
            (f"drift.{measure.name}", measure.block, "critical"),
            (f"drift.{measure.name}_watched", measure.warn, "warning"),
        ):
            if bound is not None:
                key = f"validate.{'block' if severity == 'critical' else 'warn'}_{measure.name}"
                rule = f"{measure.sentence}: a difference of at most {bound:g} ({key})"
                expectations.append(_between(name, measure.name, None, bound, rule, severity))
    return Checked("drift", "what", lambda: pd.DataFrame({"what": ["this WAT file"]} | row), expectations)


def _pairs(settings: Settings, unit: dict[str, str]) -> Iterable[Any]:
    extract = settings.extract
    low, high = extract.min_caption_chars, extract.max_caption_chars
    yield _unique("pairs.uid_unique")
    yield _matches("pairs.uid_form", "uid", UID_PATTERN)
    yield _equal("pairs.uid_true", "uid is the hash of url_normalized and caption", "uid", "uid_computed")
    yield _equal("pairs.laion_hash_true", "laion_hash is the hash of url and caption", "laion_hash", "laion_hash_computed")
    yield _matches("pairs.url_form", "url", r"^https?://[^\s/?#]+")
    yield _matches("pairs.url_normalized_form", "url_normalized", r"^https?://[^\s/?#]+/\S*$")
    yield gxe.ExpectColumnValueLengthsToBeBetween(
        column="caption",
        min_value=low,
        max_value=high,
        **_meta(
            "pairs.caption_length",
            f"caption of {low} to {high} characters (extract.min_caption_chars, extract.max_caption_chars)",
        ),
    )
    for column, value in sorted(unit.items()):
        if column in ("snapshot", "segment", "wat_file"):
            yield _among(f"pairs.{column}_own", column, [value])
    yield _matches("pairs.license_form", "license", _LICENCE, "warning")
    yield _among("pairs.license_type_known", "license_type", _LICENCE_TYPES, "warning")


def _samples() -> Iterable[Any]:
    yield _unique("samples.uid_unique")
    yield _unique("samples.key_unique", "key")
    yield _among("samples.status_known", "status", _STATUSES)
    yield _among("samples.drop_reason_known", "drop_reason", [str(r) for r in DropReason.of_stage("download")])
    rule = "success, an image and no drop reason go together"
    yield _true("samples.status_consistent", "consistent", rule)


def _images(settings: Settings) -> Iterable[Any]:
    for column in ("width", "height", "original_width", "original_height", "original_bytes", "mime", *_HEX):
        yield _present(f"images.{column}_present", column)
    for column in ("width", "height", "original_width", "original_height"):
        yield _between(f"images.{column}_positive", column, 1, None)
    low = settings.download.min_bytes
    yield _between("images.bytes_enough", "original_bytes", low, None, f"original_bytes ≥ {low} (download.min_bytes)")
    yield _between("images.bytes_few_enough", "original_bytes", None, settings.download.max_bytes, severity="warning")
    for column, digits in _HEX.items():
        yield _matches(f"images.{column}_form", column, rf"^[0-9a-f]{{{digits}}}$")
    yield _matches("images.pdq_form", "pdq", r"^[0-9a-f]{64}$")
    if settings.download.pdq:
        yield _present("images.pdq_present", "pdq", "warning")
    yield _matches("images.mime_form", "mime", r"^image/[a-z0-9.+-]+$")
    yield _present("images.fetched_at_present", "fetched_at", "warning")


def _looked_at(settings: Settings) -> Iterable[Any]:
    rule = "the stored bytes decode to the stated size"
    yield _equal("looked_at.width_true", rule, "decoded_width", "width")
    yield _equal("looked_at.height_true", rule, "decoded_height", "height")
    rule = "original_width and original_height are not swapped: the stored picture lies as they say, its border where they put it"
    yield _true("looked_at.original_not_swapped", "original_lies_right", rule)
    rule = f"pdq is that of the stored picture, within {PDQ_MATCH} bits"
    yield _between("looked_at.pdq_true", "pdq_distance", 0, PDQ_MATCH, rule)
    if settings.download.skip_reencode:
        # Only then are bytes as fetched there to be hashed.
        for name in _HEX:
            yield _true(
                f"looked_at.{name}_true", f"{name}_true", f"{name} is that of the stored bytes, where they are as fetched"
            )


def _scores() -> Iterable[Any]:
    yield _unique("scores.uid_unique")
    yield _present("scores.similarity_present", "similarity")
    yield _present("scores.clip_model_present", "clip_model")
    yield _between("scores.similarity_range", "similarity", -1 - _ROUNDING, 1 + _ROUNDING)
    yield _between("scores.image_embedding_norm", "image_norm", *_NORM)
    yield _between("scores.text_embedding_norm", "text_norm", *_NORM)
    rule = f"similarity is the embeddings' cosine within {_COSINE_ERROR}"
    yield _between("scores.similarity_true", "similarity_error", 0, _COSINE_ERROR, rule)
    for column in ("punsafe", "pwatermark", "toxicity", "language_probability"):
        yield _between(f"scores.{column}_range", column, 0, 1)
    yield _among("scores.nsfw_known", "nsfw", ["UNLIKELY", "UNSURE", "NSFW"])
    yield _matches("scores.language_form", "language", _LANGUAGE, "warning")


def _decisions() -> Iterable[Any]:
    yield _unique("decisions.uid_unique")
    yield _among("decisions.drop_reason_known", "drop_reason", [str(r) for r in DropReason.of_stage("filter")])


def _kept(settings: Settings) -> Iterable[Any]:
    filters = settings.filter
    rule = f"similarity ≥ {filters.min_similarity} (English) or {filters.min_similarity_other} (others)"
    yield _unique("kept.uid_unique")
    yield _matches("kept.language_form", "language", _LANGUAGE)
    yield _present("kept.similarity_present", "similarity")
    yield _between("kept.similarity_enough", "above_threshold", -_ROUNDING, None, rule)
    # A score that is absent cannot have passed: filter drops what it cannot judge.
    if (high := filters.max_punsafe) is not None:
        yield _present("kept.punsafe_present", "punsafe")
        yield _between("kept.safe", "punsafe", None, high + _ROUNDING, f"punsafe ≤ {high} (filter.max_punsafe)")
    if (high := filters.max_toxicity) is not None:
        yield _present("kept.toxicity_present", "toxicity")
        yield _between("kept.not_toxic", "toxicity", None, high + _ROUNDING, f"toxicity ≤ {high} (filter.max_toxicity)")
    if (high := filters.max_pwatermark) is not None:
        yield _present("kept.pwatermark_present", "pwatermark")
        yield _between("kept.unmarked", "pwatermark", None, high + _ROUNDING, f"pwatermark ≤ {high} (filter.max_pwatermark)")
    if (low := filters.min_aesthetic) is not None:
        yield _present("kept.aesthetic_present", "aesthetic")
        yield _between("kept.aesthetic_enough", "aesthetic", low - _ROUNDING, None, f"aesthetic ≥ {low} (filter.min_aesthetic)")
    if filters.languages is not None:
        yield _present("kept.language_present", "language")
        yield _among("kept.language_wanted", "language", list(filters.languages))
    low = filters.min_language_probability
    rule = f"a language's probability ≥ {low} (filter.min_language_probability)"
    yield _between("kept.language_reliable", "probability_of_language", low - _ROUNDING, None, rule)
    yield from _kept_in_spite_of_rules(settings)


def _kept_in_spite_of_rules(settings: Settings) -> Iterable[Any]:
    """Those of DataComp's basic filter, LAION's on illegal content, and on images that stand more than once."""
    filters = settings.filter
    if low := filters.min_caption_chars:
        rule = f"caption of at least {low} characters (filter.min_caption_chars)"
        yield _between("kept.characters_enough", "caption_chars", low, None, rule)
    if low := filters.min_caption_words:
        rule = f"caption of at least {low} words (filter.min_caption_words)"
        yield _between("kept.words_enough", "caption_words", low, None, rule)
    if low := filters.min_original_side:
        rule = f"shorter side of the original ≥ {low} (filter.min_original_side)"
        yield _between("kept.original_large_enough", "shorter_side", low, None, rule)
    if (high := filters.max_original_aspect) is not None:
        rule = f"longer side of the original at most {high} times the shorter (filter.max_original_aspect)"
        yield _between("kept.original_wide_enough", "beyond_aspect", None, 0, rule)
    if (high := filters.max_punsafe_with_word) is not None:
        rule = f"punsafe ≤ {high} where the caption holds a listed word (filter.max_punsafe_with_word)"
        yield _between("kept.safe_with_word", "punsafe_with_word", None, high + _ROUNDING, rule)
    if filters.drop_illegal:
        yield _true("kept.legal", "legal", "UNLIKELY, or neither child nor animal (filter.drop_illegal)")
    if (most := filters.placeholder_urls) is not None:
        rule = f"bytes of at most {most} URLs, or on fewer than {filters.placeholder_hosts} hosts (filter.placeholder_urls)"
        yield _true("kept.no_placeholder", "no_placeholder", rule)
    if filters.near_duplicates != "keep":
        rule = f"no two of the WAT file look alike, within {PDQ_MATCH} bits (filter.near_duplicates)"
        yield _true("kept.alone", "alone", rule)


def _success(tables: Tables, settings: Settings) -> Checked:
    """Download success, as a table of one row; a WAT file without pairs has nothing to fail."""
    low = settings.validate_.min_download_success
    pairs = len(tables.pair_uids)

    def frame() -> pd.DataFrame:
        return pd.DataFrame({"what": ["download success"], "share": [tables.image_count / pairs if pairs else 1.0]})

    rule = f"share of pairs that gave an image ≥ {low} (validate.min_download_success)"
    return Checked("download", "what", frame, [_between("download.success", "share", low, None, rule)])


def _meta(name: str, rule: str, severity: str = "critical") -> dict[str, Any]:
    return {"meta": {"name": name, "rule": rule}, "severity": severity}


def _unique(name: str, column: str = "uid") -> Any:
    return gxe.ExpectColumnValuesToBeUnique(column=column, **_meta(name, f"each {column} stands once"))


def _true(name: str, column: str, rule: str) -> Any:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True], **_meta(name, rule))


def _present(name: str, column: str, severity: str = "critical") -> Any:
    return gxe.ExpectColumnValuesToNotBeNull(column=column, **_meta(name, f"{column} is there", severity))


def _matches(name: str, column: str, regex: str, severity: str = "critical") -> Any:
    return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=regex, **_meta(name, f"{column} matches {regex}", severity))


def _among(name: str, column: str, values: list[str], severity: str = "critical") -> Any:
    rule = f"{column} is {values[0]}" if len(values) == 1 else f"{column} is one of {len(values)} known"
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values, **_meta(name, rule, severity))


def _between(name: str, column: str, low: float | None, high: float | None, rule: str = "", severity: str = "critical") -> Any:
    bounds = " and ".join([*([f"≥ {low:g}"] if low is not None else []), *([f"≤ {high:g}"] if high is not None else [])])
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, **_meta(name, rule or f"{column} {bounds}", severity)
    )


def _equal(name: str, rule: str, one: str, other: str) -> Any:
    return gxe.ExpectColumnPairValuesToBeEqual(column_A=one, column_B=other, ignore_row_if="neither", **_meta(name, rule))
