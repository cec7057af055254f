"""Language of captions, by lingua in high-accuracy mode.

In: captions, and the languages that may occur. Out: code and probability of each. Guaranteed: the same captions give the same
answers, whatever stands beside them. What does not belong here: which probability is enough (decisions).
"""

from __future__ import annotations

from collections.abc import Sequence

from wat2mds.errors import ConfigError, nearest


def detect_languages(captions: Sequence[str], candidates: Sequence[str] | None) -> list[tuple[str | None, float | None]]:
    """ISO 639-1 code and probability of each caption by lingua in high-accuracy mode; (None, None) where it finds none.

    Raises ConfigError for a candidate that lingua does not know.
    """
    from lingua import IsoCode639_1, Language, LanguageDetectorBuilder

    if not captions:
        return []
    if candidates is None:
        builder = LanguageDetectorBuilder.from_all_languages()
    else:
        known = {language.iso_code_639_1.name.lower(): language.iso_code_639_1 for language in Language.all()}
        for code in candidates:
            if code not in known:
                raise ConfigError(f"filter.language_candidates: lingua knows no language {code!r}.{nearest(code, known)}")
        codes: list[IsoCode639_1] = [known[code] for code in candidates]
        builder = LanguageDetectorBuilder.from_iso_codes_639_1(*codes)
    found = builder.build().compute_language_confidence_values_in_parallel(list(captions))
    result: list[tuple[str | None, float | None]] = []
    for values in found:
        best = values[0] if values and values[0].value > 0 else None
        result.append((best.language.iso_code_639_1.name.lower(), float(best.value)) if best else (None, None))
    return result
