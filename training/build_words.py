"""Make the judge's word lists: ours, from words/, and then what WordNet 3.0 knows of common words.

    python training/build_words.py --wordnet DIR [--data ../shared/data]

DIR is WordNet's `dict` folder (`data.noun`, `index.noun`, ...); Debian's package wordnet-base puts
it into /usr/share/wordnet. Writes antonyms, synonyms, siblings, phrases and frequency.txt to
`src/memora/judge/words`; units.txt there is written by hand.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "quality"))

from data import development_file, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OUTPUT = ROOT / "src" / "memora" / "judge" / "words"
COUNTED: Final = (
    "qqp/questions_train.jsonl.gz",
    "clinc150/questions_dev.jsonl",
    "banking77/questions_dev.jsonl",
    "background/arena_hard_dev.jsonl.gz",
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
_NOTE = re.compile(r"\(.*\)")  # "(p)" after an adjective: predicative
_KNOWN = 3  # texts a word is in, from which on it is looked up
_COUNTED = 5  # and from which on its frequency is told
_LEVELS = 20
_FIRST_SENSES = 2  # a synonym in a rare sense misleads
_SHORTEST = 3  # letters of WordNet's words: shorter ones are units and abbreviations
_TOO_WIDE = "person"  # a banker may well be a father


class Synset(NamedTuple):
    """A meaning: its words, and pointers (symbol, offset, part of speech, source and target)."""

    words: list[str]
    pointers: list[tuple[str, str, str, str]]


class WordNet:
    """The parts of the database that are read here."""

    def __init__(self, folder: Path) -> None:
        self.synsets = {
            (part, body[0]): _synset(body)
            for part, name in _PARTS.items()
            for body in _bodies(folder / f"data.{name}")
        }
        # Which sense of a word a synset is, most common first; a lemma and part occur once.
        self.sense = {
            (body[0], part, offset): number
            for part, name in _PARTS.items()
            for body in _bodies(folder / f"index.{name}")
            for number, offset in enumerate(body[6 + int(body[3]) :])
        }

    def antonyms(self, known: set[str]) -> set[tuple[str, str]]:
        """Return pairs of words, each in order."""
        found = set()
        for words, pointers in self.synsets.values():
            for symbol, offset, part, ends in pointers:
                if symbol == "!":
                    target = self.synsets["a" if part == "s" else part, offset]
                    source_end, target_end = bytes.fromhex(ends)
                    one, other = words[source_end - 1], target.words[target_end - 1]
                    if one in known and other in known and one < other:
                        found.add((one, other))
        return found

    def synonyms(self, known: set[str]) -> set[str]:
        """Return lines of words with one meaning, each in order."""
        found = set()
        for (part, offset), (words, _) in self.synsets.items():
            common = {
                word
                for word in words
                if word in known and self._sense(word, part, offset) < _FIRST_SENSES
            }
            if len(common) > 1:
                found.add(" ".join(sorted(word for word in common if len(word) >= _SHORTEST)))
        return {line for line in found if " " in line}

    def siblings(self, known: set[str]) -> Iterator[tuple[str, list[str]]]:
        """Yield nouns, in order, with the nouns that are a kind of them, by their first sense."""
        kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
        for (part, offset), (words, pointers) in self.synsets.items():
            if part == "n":
                common = {w for w in words if w in known and self._sense(w, part, offset) == 0}
                for symbol, above, above_part, _ in pointers:
                    if common and symbol in {"@", "@i"}:
                        kinds[above_part, above] |= common
        for key in sorted(kinds, key=lambda key: self.synsets[key].words[0]):
            words = sorted(word for word in kinds[key] if len(word) >= _SHORTEST)
            kind = self.synsets[key].words[0].replace("_", " ")
            if len(words) > 1 and kind != _TOO_WIDE:
                yield kind, words

    def _sense(self, word: str, part: str, offset: str) -> int:
        return self.sense.get((word, part, offset), _FIRST_SENSES)


def frequencies(data: Path) -> tuple[Counter[str], int]:
    """Count the texts that words are in, and the texts."""
    texts = [row["text"] for path in COUNTED for row in records(data / path)]
    return Counter(word for text in texts for word in set(_WORD.findall(text.lower()))), len(texts)


def levels(counts: Counter[str], texts: int) -> Iterator[str]:
    """Yield lines of a level and its words."""
    found: dict[int, list[str]] = defaultdict(list)
    for word, count in counts.items():
        if count >= _COUNTED and len(word) > 1:
            level = round(_LEVELS * math.log(texts / count) / math.log(texts))
            found[level].append(word)
    for level, words in sorted(found.items()):
        yield f"{level} {' '.join(sorted(words))}"


def main() -> int:
    """Write the lists."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--wordnet", type=Path, required=True, help="its dict folder")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    needed = [*(options.data / path for path in COUNTED), options.wordnet / "data.noun"]
    if absent := [str(path) for path in needed if not development_file(path).is_file()]:
        print(f"not there: {', '.join(absent)}", file=sys.stderr)
        return 2

    counts, texts = frequencies(options.data)
    known = {word for word, count in counts.items() if count >= _KNOWN}
    net = WordNet(options.wordnet)

    def write(name: str, about: str, *parts: Iterable[str]) -> None:
        lines = [f"# {about}", *(line for part in parts for line in part)]
        (options.output / f"{name}.txt").write_text("\n".join([*lines, ""]), "utf-8")

    write(
        "frequency",
        "Level 0 (in every text) to 20 (in hardly any): "
        "20 log(texts / texts with the word) / log(texts).",
        levels(counts, texts),
    )
    write(
        "antonyms",
        "Opposites: every word left of the bar against every word right of it. First ours, then "
        "WordNet 3.0's.",
        _ours("antonyms"),
        (f"{one} | {other}" for one, other in sorted(net.antonyms(known))),
    )
    write(
        "synonyms",
        "One line, one meaning. First ours, then WordNet 3.0's.",
        _ours("synonyms"),
        sorted(net.synonyms(known)),
    )
    write(
        "phrases",
        "word: other ways to write it, in any inflection; * stands for one to three words, - for "
        "no word. Ours.",
        _ours("phrases"),
    )
    write(
        "siblings",
        "kind: words that exclude each other. First ours, then WordNet 3.0's (hyponyms of one "
        "noun).",
        _ours("siblings"),
        (f"{kind}: {' '.join(words)}" for kind, words in net.siblings(known)),
    )
    return 0


def _ours(name: str) -> list[str]:
    text = development_file(HERE / "words" / f"{name}.txt").read_text("utf-8")
    return text.strip().splitlines()


def _bodies(path: Path) -> Iterator[list[str]]:
    """Yield the fields of the lines, without the licence at the top and the glosses."""
    for line in development_file(path).read_text("latin-1").splitlines():
        if not line.startswith("  "):
            yield line.split("|")[0].split()


def _synset(body: list[str]) -> Synset:
    count = int(body[3], 16)
    words = [_NOTE.sub("", word).lower() for word in body[4 : 4 + 2 * count : 2]]
    first = 5 + 2 * count
    fields = [body[at : at + 4] for at in range(first, first + 4 * int(body[first - 1]), 4)]
    return Synset(words, [(a, b, c, d) for a, b, c, d in fields])


if __name__ == "__main__":
    sys.exit(main())
