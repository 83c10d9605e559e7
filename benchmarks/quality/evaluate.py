"""All numbers of one policy, for the benchmark and for the development of a judge."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from data import HANDWRITTEN, WRITTEN, Pairs, load_pairs, load_stream, trap
from metrics import (
    at_threshold,
    auc,
    calibration,
    frontier,
    pchr_auc,
    summary,
    traps,
    wilson,
)
from replay import Replay, Scene
from vectors import Vectors, default_cache, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from policies import Policy

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SHIPPED = 0.85


class Bench:
    """The data and vectors of a session."""

    def __init__(
        self, data: Path = DATA, cache: Path | None = None, *, final: bool = False
    ) -> None:
        self.data, self.final, self.cache = data, final, cache or default_cache()
        self.vectors = Vectors(self.cache)
        self._scenes: dict[str, Scene] = {}

    def scene(self, name: str) -> Scene:
        """Return a stream, ready to be replayed."""
        if name not in self._scenes:
            stream = load_stream(self.data, name, final=self.final)
            vectors = self.vectors.of(stream.texts)
            self._scenes[name] = Scene.of(stream, vectors, self.vectors.folder)
        return self._scenes[name]

    def suite(self, name: str) -> Pairs:
        """Return a suite of pairs."""
        return _pairs(self.data, name, self.final)

    def replay(self, policy: Policy, name: str) -> Replay:
        """Return a replay of a stream; scores are remembered as long as it is."""
        return Replay(self.scene(name), policy)

    def pairs(self, policy: Policy, name: str, *, default: float = SHIPPED) -> dict[str, Any]:
        """Measure a policy on pairs: the only entry of a cache, and a query."""
        suite = self.suite(name)
        scores, known = self.pair_scores(policy, suite)
        served = scores >= default
        found = {
            "n": len(suite),
            "same": int(suite.same.sum()),
            "unreadable": int((~known).sum()),
            "auc": auc(scores[known], suite.same[known]),
            **_served(served, suite.same),
            "kinds": {},
        }
        if name in WRITTEN:
            found["traps"] = _grouped(served, suite.same, [trap(kind) for kind in suite.kinds])
            found["languages"] = _grouped(served, suite.same, suite.languages)
        if name in {HANDWRITTEN, "strangers"}:
            found["kinds"] = _grouped(served, suite.same, suite.kinds)
        if name == HANDWRITTEN:
            found["scores"] = [
                [float(score), bool(same)]
                for score, same in zip(scores[known], suite.same[known], strict=True)
            ]
        return found

    def pair_scores(
        self, policy: Policy, suite: Pairs
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return a score a pair, 0 where the model cannot read one side, and whether it can."""
        one, other = self.vectors.of(suite.stored), self.vectors.of(suite.asked)
        known = readable(one) & readable(other)
        cosines = (one * other).sum(1)
        scores = np.zeros(len(suite))
        for at, (stored, asked) in enumerate(zip(suite.stored, suite.asked, strict=True)):
            if stored == asked:
                scores[at] = 1.0
            elif known[at]:
                scores[at] = policy.scores(asked, [(stored, float(cosines[at]))])[0]
        return scores, known


def measure(
    replay: Replay,
    *,
    thresholds: Sequence[float] = (SHIPPED,),
    default: float = SHIPPED,
    wide: bool = False,
) -> dict[str, Any]:
    """Measure a policy on a stream.

    Args:
        replay: Of the one on the other.
        thresholds: Where to report all numbers, whatever the error there.
        default: Where calibration and traps are looked at.
        wide: With P-CHR AUC, which takes longer.
    """
    points = frontier(replay, wide=wide)
    outcome = replay.run(default)
    found = summary(points)
    found["at"] = {
        f"{threshold:g}": at_threshold(replay.run(threshold).counts())
        for threshold in dict.fromkeys((*thresholds, default))
    }
    found["calibration"] = calibration(outcome)
    found["traps"] = traps(outcome)
    if wide:
        found["pchr_auc"] = pchr_auc(points)
    return found


@lru_cache(maxsize=16)
def _pairs(data: Path, name: str, final: bool) -> Pairs:  # noqa: FBT001 - a key of the cache
    return load_pairs(data, name, final=final)


def _served(served: NDArray[np.bool_], same: NDArray[np.bool_]) -> dict[str, Any]:
    right, wrong = int((served & same).sum()), int((served & ~same).sum())
    return {
        "served_same": right,
        "of_same": int(same.sum()),
        "served_other": wrong,
        "of_other": int((~same).sum()),
        "wrong_interval": wilson(wrong, int((~same).sum())),
    }


def _grouped(
    served: NDArray[np.bool_], same: NDArray[np.bool_], groups: Sequence[str]
) -> dict[str, dict[str, Any]]:
    named = np.array(groups)
    return {
        name: {"n": int(chosen.sum()), **_served(served[chosen], same[chosen])}
        for name in sorted(set(groups))
        for chosen in (named == name,)
    }
