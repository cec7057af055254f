"""Word lists by language: whether a caption holds a listed word.

In: a folder of lists, one a language, named by its ISO 639-1 code (``en`` or ``en.txt``), a word or phrase a line: the form of LDNOOBW.
Out: a flag a caption. Guaranteed: a caption is looked up in the list of its detected language and in the English one, because English
words stand in captions of every language; without regard to case; whole words only, but anywhere in languages written without
spaces; what follows ``#`` is a comment. What does not belong here: what a flag leads to (decisions).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from wat2mds.errors import ConfigError
from wat2mds.store import Store, join

_FILE = re.compile(r"(?P<code>[a-z]{2})(\.txt)?")
# Chinese, Japanese and Thai have no spaces between words; Korean joins particles to them.
_UNSPACED = {"zh", "ja", "th", "ko"}
_ALWAYS = "en"


def lists_identity(folder: str) -> str:
    """Changes with the lists' content. Raises ConfigError for a folder that holds none."""
    found = hashlib.sha256()
    for code, content in _read(folder).items():
        found.update(f"{code}\0{len(content)}\0".encode() + content)
    return f"sha256:{found.hexdigest()[:16]}"


class WordLists:
    """The lists of a folder, ready to be matched. Raises ConfigError for a folder that holds none."""

    def __init__(self, folder: str) -> None:
        self._patterns = {code: _pattern(code, content) for code, content in _read(folder).items()}

    def flags(self, captions: Sequence[str], languages: Sequence[str | None]) -> list[bool]:
        """Whether each caption holds a listed word. ``languages``: ISO 639-1 codes as detected, however sure; None: English alone."""
        return [self._holds(caption, code) for caption, code in zip(captions, languages, strict=True)]

    def _holds(self, caption: str, code: str | None) -> bool:
        text = caption.casefold()
        lists = (self._patterns.get(one) for one in {_ALWAYS, code or _ALWAYS})
        return any(pattern is not None and pattern.search(text) is not None for pattern in lists)


def _read(folder: str) -> dict[str, bytes]:
    store = Store(folder)
    codes = {match["code"]: name for name in sorted(store.names()[0]) if (match := _FILE.fullmatch(name))}
    if not codes:
        raise ConfigError(
            f"filter.word_lists: {join(folder)} holds no word list; a list is a file named by its language's ISO 639-1 code, such as en"
        )
    return {code: store.read(name) for code, name in codes.items()}


def _pattern(code: str, content: bytes) -> re.Pattern[str] | None:
    lines = (line.partition("#")[0].strip().casefold() for line in content.decode("utf-8", "replace").splitlines())
    words = sorted({line for line in lines if line}, key=lambda word: (-len(word), word))
    if not words:
        return None
    inside = "|".join(re.escape(word) for word in words)
    return re.compile(inside if code in _UNSPACED else rf"(?<!\w)(?:{inside})(?!\w)")
