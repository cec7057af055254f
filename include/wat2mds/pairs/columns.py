"""Many texts tested at once: by RE2 over an Arrow column, at a tenth of what Python's ``re`` takes for one after another.

In: texts and a pattern in RE2's syntax, which has no look-around; ``^`` and ``$`` are the text's ends. Out: which are like it. What
does not belong here: what the answer means; a rule is stated once, for one text, and a pattern finds those that need not be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def like(texts: Sequence[str] | pa.Array, pattern: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each text matches the pattern."""
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    return pc.match_substring_regex(array, pattern).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def unlike(texts: Sequence[str], pattern: str) -> list[int]:
    """The indices of the texts that do not match the pattern."""
    found: list[int] = np.flatnonzero(~like(texts, pattern)).tolist()
    return found
