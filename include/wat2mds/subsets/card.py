"""A subset's card: what it is, how it was chosen, how it is opened.

In: a subset. Out: Markdown. Guaranteed: no text of the web stands in it; the condition is set as code. What does not belong here:
figures of the dataset, which its own card has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wat2mds.subsets.definition import Definition, folder

if TYPE_CHECKING:
    from wat2mds.subsets import Subset


def card_of(dataset_url: str, subset: Subset, definition: Definition) -> str:
    share = subset.samples / subset.of if subset.of else 0.0
    fence = "`" * max(3, 1 + _longest_run(definition.where))
    said = []
    if definition.fraction is not None:
        said.append(f"Of these, a {definition.fraction:g} fraction by uid.")
    if definition.count is not None:
        said.append(f"Of these, at most {definition.count:,}: those with the least uids.")
    if definition.source:
        said.append(f"Source: {definition.source}.")
    said.append("A row for which the condition is neither true nor false, since a value is missing, is not taken.")
    where = f"{folder(subset.name)}/{subset.version:06d}"
    files = "\n".join(
        f"- `{entry.path.rpartition('/')[2]}`, {entry.size:,} bytes, SHA-256 `{entry.sha256}`"
        for entry in [subset.uids, *subset.metadata]
    )
    wat_files = f"{len(subset.selected):,} WAT file{'s' * (len(subset.selected) != 1)}"
    return f"""# Subset {subset.name} of version {subset.version}

**{subset.samples:,}** of {subset.of:,} samples ({share:.2%}), from {wat_files}.

## How they were chosen

{fence}sql
{definition.where}
{fence}

{chr(10).join(said)}

## Files

In `{where}/`, `uids.npy` is DataComp's form (numpy `u8,u8`, sorted), `metadata-*.parquet` have LAION's columns.

{files}

## Reading it

```python
from wat2mds.reading import open_subset

dataset = open_subset({dataset_url!r}, {subset.name!r}, version={subset.version})
```

That needs the subset's own shards: `wat2mds subset build {subset.name} --version {subset.version} --mds` copies them, without a download.
"""


def _longest_run(text: str) -> int:
    return max((len(run) for run in text.replace("\n", " ").split(" ") if set(run) == {"`"}), default=text.count("`"))
