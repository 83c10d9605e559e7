"""The targets of verifier and languages, and how far what was measured is from them. Pure.

They are meant for data that is kept back. Here the development files stand for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from data import ENGLISH, PAIRS, STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HIGHER: Final = frozenset({"repeats", "hits", "right", "H@1", "right of hits"})
"""Figures of which more is better; of all others less is."""
NOW, TODAY = "memora", "judge-alone"
MEANINGS: Final = {"missed": "**missed**", "must": "met", "aim": "met, and the aim"}


class Target(NamedTuple):
    """What is wanted of some figures, in per cent unless the title says otherwise."""

    title: str
    of: str
    """A suite of pairs, a stream, or a table of timings."""
    names: tuple[str, ...]
    must: tuple[float, ...]
    aim: tuple[float, ...] = ()


_SERVED = ("repeats", "traps")
_HITS = ("hits", "wrong of all", "H@1")
TARGETS: Final = (
    Target("testers' pairs", "field", _SERVED, (65, 8), (85, 3)),
    Target("strangers' English pairs", "strangers", _SERVED, (60, 6), (80, 3)),
    Target("families", "families", _SERVED, (30, 4), (55, 3)),
    Target("fow pairs", "fow", _SERVED, (68, 3), (80, 3)),
    Target("hand-written pairs", "handwritten", _SERVED, (72, 6), (80, 4)),
    Target("mixed", "mixed", _HITS, (28, 0.45, 34), (33, 0.4, 37)),
    Target("qqp", "qqp", ("H@1", "right of hits"), (9, 87), (10, 92)),
    Target("traps", "traps", _HITS, (16, 0.8, 16), (18, 0.4, 18)),
    Target("banking77", "banking77", _HITS, (44, 1.1, 46), (50, 1, 52)),
    Target("clinc150", "clinc150", _HITS, (46, 1, 48), (52, 0.8, 55)),
    Target("strangers' pairs, eight languages", "strangers_ml", _SERVED, (45, 5), (65, 2)),
    Target("families, fourteen languages", "families_ml", _SERVED, (20, 4), (40, 3)),
    Target("xsid, nine languages", "xsid_multi", ("wrong of all",), (1,), (0.3,)),
    Target("ParaKQC, Korean", "parakqc_ko", ("right", "wrong of all"), (25, 1), (50, 1)),
    *(Target(f"{name}, calibration", name, ("ECE",), (5,)) for name in ENGLISH),
    Target("one pair, in ms", "latency", ("one pair",), (5,)),
    Target("a lookup that needs it, in lookups", "latency", ("a lookup",), (1.6,)),
)
FILES: Final = {
    **PAIRS,
    **STREAMS,
    "families": "families kept for judging",
    "families_ml": "families kept for judging",
    "fow": "none: its pairs are kept back",
    "latency": "`micro.py verifier`",
}


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row a target: its figures with the verifier (`now`) and without (`today`).

    Args:
        found: By `run.py`. A target of what was not measured has no figures.
    """
    rows = []
    for target in TARGETS:
        today, now = (_figures(target, found, policy) for policy in (TODAY, NOW))
        missed = [] if now is None else _missed(target.names, now, target.must)
        met = "missed" if missed else "must"
        if now and target.aim and not _missed(target.names, now, target.aim):
            met = "aim"
        rows.append(
            target._asdict()
            | {"file": FILES[target.of], "today": today, "now": now, "missed": missed}
            | {"met": met if now else None, "higher": [name in HIGHER for name in target.names]}
        )
    return rows


def _missed(names: Sequence[str], found: Sequence[float], wanted: Sequence[float]) -> list[str]:
    pairs = zip(names, found, wanted, strict=True)
    return [name for name, x, y in pairs if (x < y if name in HIGHER else x > y)]


def _figures(target: Target, found: dict[str, Any], policy: str) -> list[float] | None:
    """Return the figures of a target; None where they were not measured."""
    read: Callable[[dict[str, Any]], dict[str, float]]
    if target.of == "latency":
        of, read = found.get("latency", {}).get(policy, {}), dict
    elif target.of in STREAMS:
        of = found["streams"].get(target.of, {}).get("policies", {}).get(policy)
        default = f"{found['about']['default']:g}"
        read = lambda of: _stream(of, of["at"][default])  # noqa: E731
    else:
        of, read = found["pairs"].get(target.of, {}).get(policy), _pairs
    figures = read(of) if of else {}
    return [figures[name] for name in target.names] if target.names[0] in figures else None


def _pairs(of: dict[str, Any]) -> dict[str, float]:
    return {
        "repeats": 100 * of["served_same"] / max(of["of_same"], 1),
        "traps": 100 * of["served_other"] / max(of["of_other"], 1),
    }


def _stream(of: dict[str, Any], at: dict[str, Any]) -> dict[str, float]:
    return {
        "hits": 100 * at["hit_rate"],
        "right": 100 * (at["hit_rate"] - at["error"]),
        "wrong of all": 100 * at["error"],
        "right of hits": 100 * at["precision"],
        "H@1": 100 * of["hits_at_1"],
        "ECE": 100 * of["calibration"]["ece"],
    }
