"""Load families of needs and yield labelled pairs for the verifier.

``python training/families.py [file ...]`` validates the files and prints counts.
"""

import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "quality"))

from data import development_file

FILES = sorted(development_file(Path(__file__).parent / "families").glob("*.jsonl"))
JUDGED_SHARE = 10  # one family in ten is kept for judging


class Family(NamedTuple):
    """One need: its repeats, and its near misses as (query, kind of difference)."""

    id: str
    lang: str
    domain: str
    same: tuple[str, ...]
    near: tuple[tuple[str, str], ...]

    @property
    def judged(self) -> bool:
        """True if the family is kept for judging."""
        return kept(self.id)


class Pair(NamedTuple):
    """Two queries, and whether the answer to one serves the other."""

    a: str
    b: str
    same: bool
    kind: str
    family: str
    lang: str


def kept(group: str) -> bool:
    """Return whether a family or group is kept for judging; stable on every machine."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") % JUDGED_SHARE == 0


def read_families(*paths: Path) -> list[Family]:
    """Read files of families, by default this project's own.

    Raises:
        ValueError: A line is malformed, a text stands twice within its family, or an id twice
            over all files.
    """
    families: dict[str, Family] = {}
    for path in paths or FILES:
        for number, line in enumerate(development_file(path).read_text("utf-8").split("\n"), 1):
            if not line:
                continue
            where = f"{path.name}:{number}"
            try:
                family = _family(json.loads(line))
            except (KeyError, TypeError) as error:
                msg = f"{where}: malformed family: {error!r}"
                raise ValueError(msg) from error
            except ValueError as error:
                msg = f"{where}: {error}"
                raise ValueError(msg) from error
            if family.id in families:
                msg = f"{where}: id {family.id!r} occurs twice"
                raise ValueError(msg)
            families[family.id] = family
    return list(families.values())


def _family(row: dict[str, object]) -> Family:
    family = Family(
        _text(row["family"]),
        _text(row["lang"]),
        _text(row["domain"]),
        tuple(_text(text) for text in _rows(row["same"])),
        tuple((_text(near["q"]), _text(near["kind"])) for near in _rows(row["near"])),
    )
    texts = [*family.same, *(query for query, _ in family.near)]
    repeated = [text for text, times in Counter(texts).items() if times > 1]
    if repeated:
        msg = f"family {family.id!r} has a text twice: {repeated[0]!r}"
        raise ValueError(msg)
    if len(family.same) < 2 or not family.near:  # noqa: PLR2004 - a pair takes two
        msg = f"family {family.id!r} needs two repeats and a near miss"
        raise ValueError(msg)
    return family


def _rows(value: object) -> list:  # type: ignore[type-arg]  # checked where it is used
    if not isinstance(value, list):
        msg = f"expected a list, got {value!r}"
        raise TypeError(msg)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        msg = f"expected a text, got {value!r}"
        raise TypeError(msg)
    return value


def pairs(families: Iterable[Family], *, judged: bool) -> Iterator[Pair]:
    """Yield the labelled pairs of the families for training, or of those kept for judging.

    Two wordings of ``same`` are a positive, one of ``same`` and one of ``near`` a negative.
    Two of ``near`` give no pair, since nobody compared them.
    """
    for family in families:
        if family.judged is judged:
            for a, b in itertools.combinations(family.same, 2):
                yield Pair(a, b, True, "repeat", family.id, family.lang)  # noqa: FBT003
            for a, (b, kind) in itertools.product(family.same, family.near):
                yield Pair(a, b, False, kind, family.id, family.lang)  # noqa: FBT003


def _report(families: list[Family]) -> str:
    count = len(families)
    repeats = sum(len(family.same) for family in families) / count
    near = sum(len(family.near) for family in families) / count
    lines = [f"{count} families, {repeats:.2f} repeats and {near:.2f} near misses each"]
    for judged, use in ((False, "training"), (True, "judging")):
        labels = Counter(pair.same for pair in pairs(families, judged=judged))
        kept = sum(family.judged is judged for family in families)
        lines.append(f"{use}: {kept} families, {labels[True]} same, {labels[False]} not")
    for name, values in (
        ("languages", Counter(family.lang for family in families)),
        ("domains", Counter(family.domain for family in families)),
    ):
        lines.append(f"{name}: " + ", ".join(f"{v} {n}" for v, n in values.most_common()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(_report(read_families(*map(Path, sys.argv[1:]))) + "\n")
