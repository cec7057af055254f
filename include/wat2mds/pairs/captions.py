"""Captions: alt text as published datasets want it."""

from __future__ import annotations

import html
import re
import unicodedata

import ftfy
from ftfy.badness import is_bad
from ftfy.chardata import LIGATURES, WIDTH_MAP

from wat2mds.pairs.columns import unlike

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Visible ASCII words with one space between: nothing to clean but entities, and most captions.
_CLEAN = re.compile(r"[!-~]+(?: [!-~]+)*")
_CLEAN_WITHOUT_ENTITIES = r"^(?:[!-%'-~]+(?: [!-%'-~]+)*)?$"
# C0, DEL, C1 and the other invisible controls; white space among them was collapsed before.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\ufff9-\ufffb\ud800-\udfff]")
_FIX = ftfy.TextFixerConfig(
    unescape_html=False, normalization="NFC", remove_control_chars=True, uncurl_quotes=False, explain=False
)
# What ftfy does to one character for another is done here at once, carriage returns among it; what else it changes by itself is odd.
_SIMPLE = {13: "\n", **WIDTH_MAP, **LIGATURES}
_SIMPLE_CHARACTERS = re.compile(f"[{''.join(map(re.escape, map(chr, sorted(_SIMPLE))))}]")
_ODD = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u2028\u2029\u206a-\u206f\ufeff\ufff0-\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)
# ftfy's signs of mojibake are all two neighbours beyond ASCII and below the dingbats, or have one of these characters; to ask ftfy
# takes ten times as long.
_SUSPECT = re.compile("[\x80-\u26ff\uf8ff\ufb01\ufb02\ufffd]{2}|[\x80-\x9f\u0152\u0153\xc2\xc3]")


def clean_caption(text: str) -> str:
    """Entities decoded, mojibake repaired (ftfy), NFC, white space collapsed, control characters removed."""
    if "&" in text and _ENTITY.search(text):
        text = html.unescape(text)
    if _CLEAN.fullmatch(text):
        return text
    if not text.isascii():
        text = mend(text)
    return _CONTROL.sub("", " ".join(text.split())).strip()


def clean_captions(texts: list[str]) -> list[str]:
    """``clean_caption`` of each; those with nothing to clean are found together."""
    cleaned = list(texts)
    for i in unlike(texts, _CLEAN_WITHOUT_ENTITIES):
        cleaned[i] = clean_caption(texts[i])
    return cleaned


def mend(text: str) -> str:
    """``ftfy.fix_text``, which takes 50 µs for text that wants nothing: asked first whether it would do anything but the simple."""
    simple = text
    if _SIMPLE_CHARACTERS.search(text):
        simple = text.replace("\r\n", "\n").translate(_SIMPLE)
    if _ODD.search(simple) or not unicodedata.is_normalized("NFC", simple) or _is_bad(simple) or _is_bad(text):
        return str(ftfy.fix_text(text, _FIX))
    return simple


def _is_bad(text: str) -> bool:
    return _SUSPECT.search(text) is not None and is_bad(text)
