"""Tell the language of a text: by its script, its English words, and fastText's `lid.176`.

The texts are queries: a few words, often with names, code and English terms of a trade. So English
words speak for English, and a language that is not certain is none.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memora.judge._words import relations, stem, word_set

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHTS = Path(__file__).parents[1] / "models" / "lid.176" / "lid.176.ftz"

NAMES: Mapping[str, str] = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "kk": "Kazakh", "km": "Khmer", "ko": "Korean", "lt": "Lithuanian",
    "lv": "Latvian", "ms": "Malay", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian",
    "sr": "Serbian", "sv": "Swedish", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""The languages that are told from each other, by their ISO 639-1 code."""
OTHERS = frozenset("ar de es fr it ja ko nl pl pt ru th tr zh".split())  # noqa: SIM905
"""The languages other than English that the packaged multilingual models read."""
_SAME = {
    "als": "de", "arz": "ar", "bar": "de", "bs": "hr", "ckb": "ar", "jv": "id", "ky": "kk",
    "lb": "de", "min": "id", "nn": "no", "sh": "hr", "su": "id", "wuu": "zh", "yue": "zh",
}  # fmt: skip
"""Labels of the model that count as another: varieties, and what short texts are taken for."""
_SCRIPTS = {
    "HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja", "THAI": "th", "GREEK": "el",
    "HEBREW": "he", "CJK": "zh",
}  # fmt: skip
"""Scripts that tell the language, the first of those a text has."""
_WORD = re.compile(r"[^\W\d_]{2,}(?:['\u2019][^\W\d_]+)?|[^\W\d_a-zA-Z]")
_LAST_LATIN = "\u024f"
_LONGEST = 1_000  # characters that are read of a text
_KEPT = 1_024  # languages of recent texts
_LABELS, _PREFIX = 5, len("__label__")
_WITHOUT_SPACES, _DENSE, _QUOTED = ("ja", "th", "zh"), 2, 4
_SPACES = re.compile(r"\s+")
_COMMON = 0.55  # greatest rarity of a word that speaks for English: of some 1,000 words
_SOME, _MOST, _NEARLY_ALL = 1 / 3, 0.5, 0.8  # shares of such words
_SHORT, _KNOWN = 5, 2 / 3  # a text of so few words may be English if it has such a share of them
# Small words that are common in no other language of Latin letters.
_ENGLISH = word_set(
    "the my what how which from this that your you are into out does did and where when why who "
    "with there their they we our i'm i'd i've don't can't isn't should would could been has have "
    "were"
)
_LETTERS = 4  # at least, of a text whose language can be told
_FEW = 2  # words of a text of which the model must be surer, as of one with signs of code
_CODE = re.compile(r"--\w|[{}=;|$\\~]|\w\(")
_LEAST = 0.2  # of English; where it knows no part of the text, it says English at 0.12
_SURE, _SURER, _SUREST = 0.6, 0.85, 0.9
_TOLD, _HARDLY = 0.3, 0.05  # of a language that is not English, and of English
_TIMES = 3  # how many times as likely as English a language must be


@lru_cache(maxsize=_KEPT)
def language_of(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, or "" if that cannot be told.

    "zh" is Chinese in both its scripts. A text of few or international words, code, names and
    numbers cannot be told. A text in two scripts has the language of its longer part.
    """
    text = text[:_LONGEST]
    words = dict.fromkeys(_WORD.findall(text))
    latin = [word.lower() for word in words if word[0] <= _LAST_LATIN]
    others = "".join(word for word in words if word[0] > _LAST_LATIN)
    if others:
        scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in others}
        told = next((code for script, code in _SCRIPTS.items() if script in scripts), "")
        # A letter of a script without spaces is half a word. English that quotes has small words.
        weight = _DENSE if told in _WITHOUT_SPACES else 1
        weight *= _QUOTED if _ENGLISH.isdisjoint(latin) else 1
        if weight * len(others) >= sum(map(len, latin)):
            return told or _likeliest(others if latin else text)[0]
    return _of_latin(text, latin) if sum(map(len, latin)) >= _LETTERS else ""


def _of_latin(text: str, words: list[str]) -> str:
    known = relations().rarity
    rarity = [known.get(stem(word.partition("'")[0]), 1.0) for word in words]
    common = sum(one <= _COMMON for one in rarity) / len(words)
    if common >= _SOME and not _ENGLISH.isdisjoint(words):
        return "en"
    told, likely, of_english = _likeliest(text.lower())
    if told == "en":
        return told if likely >= _LEAST else ""
    few = len(words) <= _FEW or bool(_CODE.search(text))
    if likely < (_SURER if few else _SURE) or likely <= _TIMES * of_english:
        # It may waver between languages that are alike, but not with English.
        wavers = likely >= _TOLD and of_english < _HARDLY and common < _SOME and not few
        return told if wavers and told in OTHERS else ""
    # The model is sure, but English words may speak against it.
    english = sum(one < 1 for one in rarity) / len(words)
    if len(words) <= _SHORT and english >= (_MOST if few else _KNOWN):
        return ""
    most = _NEARLY_ALL if likely >= _SUREST and not few else _MOST
    return told if common < most else ""


def _likeliest(text: str) -> tuple[str, float, float]:
    """Return the likeliest language, its probability, and that of English."""
    found: dict[str, float] = {}
    line = _SPACES.sub(" ", text).encode("utf-8", "replace").decode()  # a lone surrogate has none
    labels, probabilities = _model().predict(line, k=_LABELS)
    for label, probability in zip(labels, probabilities, strict=True):
        code: str = label[_PREFIX:]
        code = _SAME.get(code, code)
        if code in NAMES:
            found[code] = found.get(code, 0.0) + probability
    told = max(found, key=lambda code: found[code], default="")
    return told, found.get(told, 0.0), found.get("en", 0.0)


@cache
def _model() -> Any:
    import fasttext  # noqa: PLC0415 - loads a library

    return fasttext.load_model(str(_WEIGHTS))
