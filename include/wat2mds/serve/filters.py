"""Conditions that a client may set on samples, and their SQL.

In: a query's fields, each with its bounds. Out: ``Condition``, SQL with its values apart, for the rows' file, or as a subset's
predicate. Guaranteed: SQL texts are those of this module; a client's values are bound as parameters, or, in a predicate, are of a
pattern that holds no quote. What does not belong here: which samples are near a query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Re-LAION-5B research-safe keeps what is not above it (laion.ai/blog/relaion-5b).
UNSAFE_ABOVE = 0.45
NONE = "none"  # the value of a list that stands for null
Language = Annotated[str, StringConstraints(pattern=r"^([a-z]{2,3}|none)$")]
License = Annotated[str, StringConstraints(pattern=r"^[a-z0-9+-]{1,40}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{1,253}$")]
Uid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Value = str | float | int

_OWN_COLUMNS = {
    "host": "lower(regexp_extract(url, '^[a-zA-Z]+://([^/:?#]+)', 1))",
    "short_side": "least(original_width, original_height)",
}
_OWN_COLUMN = re.compile(r"\b(" + "|".join(_OWN_COLUMNS) + r")\b")
# What may be set in several values, and is counted: field to column.
FACETS = {"language": "language", "license": "license_type", "host": "host"}
SIDES = (256, 512, 1024)


class Filters(BaseModel):
    """Which samples are wanted. Of lists any value, ``none`` for samples that have none; of bounds, samples without the value fail."""

    model_config = ConfigDict(extra="forbid")

    language: list[Language] = Field([], max_length=20, description="ISO 639-1 codes, or none")
    license: list[License] = Field([], max_length=20, description="types of Creative Commons licences, e.g. by-sa, or none")
    host: list[Host] = Field([], max_length=20, description="hosts of the image's URL")
    min_side: int | None = Field(None, ge=1, le=100_000, description="pixels of the original image's shorter side, at least")
    min_similarity: float | None = Field(None, ge=-1, le=1, description="cosine of image and caption, at least")
    min_aesthetic: float | None = Field(None, ge=-100, le=100, description="aesthetic score, at least")
    unsafe: bool = Field(False, description=f"show what is likely unsafe too: punsafe above {UNSAFE_ABOVE}, or tagged NSFW")

    def condition(self, *, without: str = "") -> Condition:
        """Of all fields but one."""
        parts: list[tuple[str, list[Value]]] = []
        for field, column in FACETS.items():
            values: list[str] = getattr(self, field)
            if values and field != without:
                parts.append(_any_of(column, values))
        for column, least in (
            ("short_side", self.min_side),
            ("similarity", self.min_similarity),
            ("aesthetic", self.min_aesthetic),
        ):
            if least is not None and column != without:
                parts.append((f"{column} >= ?", [least]))
        if not self.unsafe and without != "unsafe":
            parts.append(("(punsafe IS NULL OR punsafe <= ?) AND (nsfw IS NULL OR nsfw <> ?)", [UNSAFE_ABOVE, "NSFW"]))
        return Condition(tuple(parts))

    @property
    def narrow(self) -> bool:
        """Whether anything is set."""
        return self != type(self)()


@dataclass(frozen=True)
class Condition:
    """SQL texts that must all hold, each with its values."""

    parts: tuple[tuple[str, list[Value]], ...]

    @property
    def sql(self) -> str:
        return " AND ".join(f"({text})" for text, _ in self.parts) or "1"

    @property
    def values(self) -> list[Value]:
        return [value for _, values in self.parts for value in values]

    def predicate(self) -> str:
        """The same as a subset's condition over the metadata table, which has neither column of the rows' own."""
        texts = []
        for text, values in self.parts:
            pieces = [_OWN_COLUMN.sub(lambda found: _OWN_COLUMNS[found[0]], piece) for piece in text.split("?")]
            filled = "".join(a + b for a, b in zip(pieces, [*map(_literal, values), ""], strict=True))
            texts.append(f"({filled})")
        return " AND ".join(texts) or "true"


def uids_predicate(uids: list[str]) -> str:
    """A subset's condition that takes just these samples."""
    return f"uid IN ({', '.join(map(_literal, uids))})" if uids else "false"


def _any_of(column: str, values: list[str]) -> tuple[str, list[Value]]:
    named: list[Value] = [value for value in values if value != NONE]
    texts = [f"{column} IN ({', '.join('?' * len(named))})"] if named else []
    texts += [f"{column} IS NULL"] if NONE in values else []
    return " OR ".join(texts), named


def _literal(value: Value) -> str:
    if isinstance(value, str):
        if not value.isascii() or "'" in value or "\\" in value:  # the patterns above let none through
            raise ValueError(f"not a value of a condition: {value!r}")
        return f"'{value}'"
    return repr(value)


Modality = Literal["image", "text"]
