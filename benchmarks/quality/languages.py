"""How well the language of a text is told, on development data.

    python benchmarks/quality/languages.py    # a table, with what English is taken for

The served share of repeats and traps by language is in the page of `run.py --targets`.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

from data import ENGLISH, STREAMS, development_file, records

from memora.judge._language import NAMES, OTHERS, language_of

DATA: Final = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SETS: Final = {
    "questions on a text (XQuAD)": "multilingual/xquad.jsonl.gz",
    "commands (xSID)": "xsid/questions_dev.jsonl.gz",
    "families of needs": "verifier/families/families_ml.jsonl",
}
LEAST: Final = 50  # texts of a set in a language


def texts(data: Path) -> dict[str, dict[str, set[str]]]:
    """Return the texts of each set by language."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, path in SETS.items():
        by_language: defaultdict[str, set[str]] = defaultdict(set)
        for row in records(data / path):
            own = row.get("same", []) + [near["q"] for near in row.get("near", [])]
            by_language[row["lang"]].update(own or [row["text"]])
        found[name] = by_language
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the labelled queries")
    data: Path = development_file(parser.parse_args().data)
    sets = texts(data)
    print(f"| language | {' | '.join(sets)} |\n|---|{'---:|' * len(sets)}")
    languages = sorted({language for one in sets.values() for language in one} & set(NAMES))
    for language in languages:
        cells = []
        for one in sets.values():
            told = [language_of(text) == language for text in one.get(language, ())]
            cells.append(f"{100 * sum(told) / len(told):.0f} %" if len(told) >= LEAST else "-")
        mark = "" if language in OTHERS or language == "en" else " (equal texts only)"
        print(f"| {NAMES[language]}{mark} | {' | '.join(cells)} |")
    english = {row["text"] for name in ENGLISH[1:] for row in records(data / STREAMS[name])}
    taken = Counter(language_of(text) for text in english)
    foreign = sum(count for language, count in taken.items() if language not in {"", "en"})
    print(f"\nOf {len(english):,} English requests {foreign} are taken for another language.")


if __name__ == "__main__":
    main()
