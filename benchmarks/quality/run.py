"""Memora Replay: how many queries a cache answers rightly, and wrongly, on labelled streams.

    python benchmarks/quality/run.py --quick     # three sets of data, tables on the screen
    python benchmarks/quality/run.py --ablation --peer-python PEERS/bin/python
    python benchmarks/quality/plot.py            # in a Python that has matplotlib

The second writes `benchmarks/results/quality.json` and `.md`, the third adds the plots.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))  # where `python -m` does not look
sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
from baselines import DEFAULTS, STATIC, probe
from data import BACKGROUND, ENGLISH, HANDWRITTEN, LANGUAGES, PAIRS, STREAMS, absent
from evaluate import DATA, SHIPPED, Bench, measure
from machine import machine
from metrics import at_threshold, best_at, bootstrap, frontier, nauc5, right_hits
from policies import KINDS, POLICIES, Cosine, judge_policy
from replay import Replay, compare
from report import report
from vectors import default_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from baselines import Default
    from data import Stream
    from numpy.typing import NDArray
    from policies import Policy

RESULTS = Path(__file__).parents[1] / "results" / "quality.json"
GUIDED = (0.75, 0.85, 0.9, 0.95)  # the thresholds that the documentation speaks of
_SHARE = 4  # the small cache holds a quarter of the classes
OURS, BASE = "memora", "cosine"


class Run:
    """One run: what to measure, and what has been."""

    def __init__(
        self, bench: Bench, arguments: argparse.Namespace, peers: Sequence[Default]
    ) -> None:
        self.bench, self.peers = bench, peers
        self.seed: int = arguments.seed
        self.default: float = arguments.threshold
        self.quick: bool = arguments.quick
        self.policies: dict[str, Policy] = {name: POLICIES[name]() for name in arguments.policies}
        self._pooled: dict[str, list[NDArray[np.bool_]]] = {}

    def stream(self, name: str) -> dict[str, Any]:
        """Measure everything on a stream."""
        scene = self.bench.scene(name)
        replays = {
            policy: self.bench.replay(self.policies[policy], name) for policy in self.policies
        }
        found: dict[str, Any] = {
            "policies": {
                policy: measure(
                    replay, thresholds=GUIDED, default=self.default, wide=not self.quick
                )
                for policy, replay in replays.items()
            },
        }
        static = Replay(scene, Cosine())
        found["static"] = {
            f"{threshold:.2f}": at_threshold(static.run(threshold).counts()) for threshold in STATIC
        }
        found["peers"] = {
            peer.name: at_threshold(static.run(peer.cosine).counts()) for peer in self.peers
        }
        if name in ENGLISH:
            found["difference"] = self._difference(replays, found["policies"])
        if self.quick or name not in ENGLISH:
            return found
        found["small"] = self._small(scene.stream, replays, found["policies"])
        found["always"] = {
            policy: at_threshold(replay.run(self.default, store="always").counts())
            for policy, replay in replays.items()
        }
        if OURS in replays:
            outcome = replays[OURS].run(self.default)
            found["library"] = compare(scene, outcome, identity=self.bench.vectors.identity)
        return found

    def pooled(self) -> dict[str, float] | None:
        """Compare our judge with the bare cosine over all requests of the English streams."""
        if set(self._pooled) != {OURS, BASE}:
            return None
        ours, base = (np.concatenate(self._pooled[name]) for name in (OURS, BASE))
        return bootstrap(ours, base, seed=self.seed)

    def pairs(self, name: str) -> dict[str, Any]:
        """Measure the policies on a suite of pairs."""
        return {
            policy: self.bench.pairs(self.policies[policy], name, default=self.default)
            for policy in self.policies
        }

    def ablation(self, streams: Sequence[str]) -> dict[str, Any]:
        """Measure the judge whole, and without each kind of its evidence: a process a core."""
        judge_policy()  # reads the model's name once, for all
        found, kinds = {}, (None, *KINDS)
        shared = self.bench, tuple(streams)
        fork = multiprocessing.get_context("fork")  # what has been read is not read again
        with fork.Pool(os.cpu_count(), _share, shared) as pool:
            for kind, of in zip(kinds, pool.imap(_without, kinds), strict=True):
                found[kind or "nothing"] = of
                _say(f"without {kind or 'nothing'}")
        return found

    def _difference(
        self, replays: dict[str, Replay], found: dict[str, Any]
    ) -> dict[str, float] | None:
        if not {OURS, BASE} <= set(replays):
            return None
        gains = {
            policy: right_hits(replays[policy].run(found[policy]["threshold_at_1"]))
            for policy in (OURS, BASE)
        }
        for policy, gain in gains.items():
            self._pooled.setdefault(policy, []).append(gain)
        return bootstrap(gains[OURS], gains[BASE], seed=self.seed)

    def _small(
        self, stream: Stream, replays: dict[str, Replay], found: dict[str, Any]
    ) -> dict[str, Any]:
        capacity = max(int(stream.classes.max() + 1) // _SHARE, 1)
        small: dict[str, Any] = {"capacity": capacity}
        for policy, replay in replays.items():
            thresholds = {"default": self.default, "at_1": found[policy]["threshold_at_1"]}
            small[policy] = {
                key: at_threshold(replay.run(threshold, capacity=capacity).counts())
                for key, threshold in thresholds.items()
            }
        return small


def _say(what: str) -> None:
    print(f"{time.perf_counter() - _START:6.1f} s  {what}", file=sys.stderr, flush=True)


_START = time.perf_counter()


_shared: list[tuple[Bench, tuple[str, ...]]] = []  # in a process of the ablation


def _share(bench: Bench, streams: tuple[str, ...]) -> None:
    _shared.append((bench, streams))


def _without(kind: str | None) -> dict[str, Any]:
    bench, streams = _shared[-1]
    policy = judge_policy(without=kind)
    points = {name: frontier(bench.replay(policy, name)) for name in streams}
    return {
        "streams": {
            name: {"hits_at_1": best_at(of, 0.01), "nauc5": nauc5(of)}
            for name, of in points.items()
        },
        "handwritten_auc": bench.pairs(policy, HANDWRITTEN)["auc"],
    }


def main() -> None:
    """Measure, and write or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="the labelled queries")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of embeddings")
    parser.add_argument("--output", type=Path, help=f"by default {RESULTS.name}, of a full run")
    parser.add_argument("--quick", action="store_true", help="mixed, traps and handwritten alone")
    parser.add_argument("--streams", nargs="*", choices=STREAMS, help="instead of all")
    parser.add_argument("--pairs", nargs="*", choices=PAIRS, help="instead of all")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--ablation", action="store_true", help="also without each evidence")
    parser.add_argument("--threshold", type=float, default=SHIPPED, help="the shipped default")
    parser.add_argument("--peer-python", type=Path, help="asks the peers for their defaults")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--final", action="store_true", help="data kept back: report, never tune")
    arguments = parser.parse_args()
    all_streams = ("mixed", "traps") if arguments.quick else (*ENGLISH, *LANGUAGES, BACKGROUND)
    all_pairs = (HANDWRITTEN,) if arguments.quick else tuple(PAIRS)
    streams = all_streams if arguments.streams is None else arguments.streams
    pairs = all_pairs if arguments.pairs is None else arguments.pairs
    _check(arguments, streams, pairs)
    peers = probe(arguments.peer_python) if arguments.peer_python else DEFAULTS
    bench = Bench(arguments.data, arguments.cache, final=arguments.final)
    run = Run(bench, arguments, peers)
    found: dict[str, Any] = {
        "about": {
            "machine": machine("memora-cache", "numpy", "onnxruntime"),
            "model": bench.vectors.identity,
            "seed": arguments.seed,
            "default": arguments.threshold,
            "final": arguments.final,
            "command": _command(),
            "peers": {peer.name: vars(peer) for peer in peers},
        },
        "streams": {},
        "pairs": {},
    }
    for name in streams:
        found["streams"][name] = run.stream(name)
        _say(name)
    found["pooled_difference"] = run.pooled()
    for name in pairs:
        found["pairs"][name] = run.pairs(name)
        _say(name)
    if arguments.ablation:
        found["ablation"] = run.ablation([name for name in streams if name in ENGLISH])
    found["about"]["seconds"] = round(time.perf_counter() - _START)
    whole = not arguments.quick and arguments.streams is None and arguments.pairs is None
    output: Path | None = arguments.output or (RESULTS if whole else None)
    text = report(found)
    if output is None:
        print(text)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(_rounded(found), indent=1) + "\n", "utf-8")
    output.with_suffix(".md").write_text(text, "utf-8")
    print(f"{output} and {output.with_suffix('.md').name}")


def _check(arguments: argparse.Namespace, streams: Sequence[str], pairs: Sequence[str]) -> None:
    """Leave with status 2 where a file is not there, or may not be opened."""
    try:
        missing = absent(arguments.data, streams, pairs, final=arguments.final)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if missing:
        print(
            f"No data: {arguments.data} lacks {', '.join(missing)}; name the folder with --data.",
            file=sys.stderr,
        )
        sys.exit(2)


def _command() -> str:
    """Return what was typed, without the folders of this machine."""
    words, left_out = ["python", "benchmarks/quality/run.py"], False
    for word in sys.argv[1:]:
        if left_out:
            words.append("PEERS/bin/python" if words[-1] == "--peer-python" else "PATH")
            left_out = False
            continue
        words.append(word)
        left_out = word in {"--peer-python", "--data", "--cache", "--output"}
    return shlex.join(words)


def _rounded(value: Any) -> Any:
    """Round every number to six places: more are noise, and longer to read."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


if __name__ == "__main__":
    main()
