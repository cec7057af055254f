"""What a profile's decisions look at, of the kept rows: computed again from captions, images' sizes and hashes, and scores.

In: the kept rows with their scores, the WAT file's samples and pairs. Out: the rows with a column for each rule. Guaranteed: what is
absent fails its rule, as in filter; numbers are filter's own only where they come from a model or from all of the WAT file's URLs. What
does not belong here: what is right (``expectations``); copies in other WAT files, with which filter compared what was published then.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from wat2mds.models.near_duplicates import hash_rows, leaders
from wat2mds.models.pictures import PDQ_LEAST_QUALITY
from wat2mds.stage_settings import FilterSettings

_SAMPLE_COLUMNS = ["uid", "original_width", "original_height", "pdq", "pdq_quality"]


def with_decided_on(kept: pd.DataFrame, samples: pa.Table, pairs: pa.Table, filters: FilterSettings) -> pd.DataFrame:
    of_sample = samples.select(_SAMPLE_COLUMNS).to_pandas().drop_duplicates("uid")
    of_pair = pairs.to_pandas().drop_duplicates("uid")
    kept = kept.merge(of_sample, on="uid", how="left").merge(of_pair, on="uid", how="left")
    captions = kept["caption"].fillna("")
    kept["caption_words"], kept["caption_chars"] = captions.str.split().str.len(), captions.str.len()
    sides = kept[["original_width", "original_height"]].fillna(-1)
    kept["shorter_side"] = sides.min(axis=1)
    if filters.max_original_aspect is not None:
        kept["beyond_aspect"] = sides.max(axis=1) - filters.max_original_aspect * sides.min(axis=1)
    # Not a number where the rule says nothing; where it does, an absent value is beyond every threshold.
    kept["probability_of_language"] = kept["language_probability"].fillna(-1).where(kept["language"].notna())
    kept["punsafe_with_word"] = kept["punsafe"].fillna(2).where(~_is(kept["listed_word"], False))
    legal = _is(kept["underage"], False) & _is(kept["child_word"], False) & _is(kept["animal"], False)
    kept["legal"] = (kept["nsfw"] == "UNLIKELY") | legal
    many = kept["copies_urls"] > (filters.placeholder_urls or 0)
    kept["no_placeholder"] = ~(many & (kept["copies_hosts"] >= filters.placeholder_hosts))
    if filters.near_duplicates != "keep":
        kept["alone"] = _alone(kept)
    return kept


def _alone(kept: pd.DataFrame) -> np.ndarray:
    """Whether no row before looks like it. Where all are alone the order says nothing."""
    rows = np.flatnonzero((kept["pdq_quality"] >= PDQ_LEAST_QUALITY) & kept["pdq"].str.fullmatch("[0-9a-f]{64}").fillna(False))
    heads = leaders(hash_rows(kept["pdq"].iloc[rows].tolist()))
    alone = np.ones(len(kept), bool)
    alone[rows[heads != np.arange(len(heads))]] = False
    return alone


def _is(column: pd.Series, value: bool) -> pd.Series:
    """Whether each is there and has this value."""
    return column.map(lambda found: found is not None and found == value).astype(bool)
