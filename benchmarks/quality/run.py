"""Memora Replay: how many queries a cache answers rightly, and wrongly, on labelled streams.

    python benchmarks/quality/run.py --quick     # three sets of data, tables on the screen
    python benchmarks/quality/run.py --targets   # what the targets speak of
    python benchmarks/quality/run.py --ablation --peer-python PEERS/bin/python
    python benchmarks/quality/plot.py FILE       # in a Python that has matplotlib

The second writes `benchmarks/results/targets.json` and `.md`, the third `quality.json` and `.md`;
the last adds the plots. `--page docs/accuracy.md` also writes the tables of that page.
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

import micro
import numpy as np
from baselines import DEFAULTS, STATIC, probe
from data import BACKGROUND, ENGLISH, HANDWRITTEN, LANGUAGES, PAIRS, STREAMS, WRITTEN, absent
from evaluate import DATA, SHIPPED, Bench, measure
from machine import machine
from metrics import at_threshold, best_at, bootstrap, frontier, nauc5, right_hits
from policies import KINDS, PARTS, POLICIES, Cosine, judge_policy, kept_verifier
from replay import Replay, compare
from report import fill, report
from targets import targets
from vectors import default_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from baselines import Default
    from data import Stream
    from numpy.typing import NDArray
    from policies import Policy

RESULTS = Path(__file__).parents[1] / "results" / "quality.json"
GUIDED = (0.75, 0.85, 0.9, 0.95)  # the thresholds that the documentation speaks of
PARTED = ("mixed", "traps")  # streams on which PARTS are measured, unless by --ablation
TURNS = 60  # of timings
_SHARE = 4  # the small cache holds a quarter of the classes
OURS, BASE = "memora", "cosine"


class Run:
    """One run: what to measure."""

    def __init__(
        self, bench: Bench, arguments: argparse.Namespace, peers: Sequence[Default]
    ) -> None:
        self.bench, self.peers = bench, peers
        self.seed: int = arguments.seed
        self.default: float = arguments.threshold
        self.narrow: bool = arguments.quick or arguments.targets
        self.parted = ENGLISH if arguments.ablation else PARTED
        self.streams: Sequence[str] = ()
        verifier = kept_verifier(bench.cache)
        self.policies: dict[str, Policy] = {
            name: POLICIES[name](bench.cache)
            for name in arguments.policies
            if verifier or name not in PARTS
        }

    def stream(self, name: str) -> dict[str, Any]:
        """Measure everything on a stream; `gains` are the right hits that `pooled` compares."""
        scene = self.bench.scene(name)
        replays = {
            policy: self.bench.replay(self.policies[policy], name)
            for policy in self._policies(parts=name in self.parted)
        }
        found: dict[str, Any] = {
            "policies": {
                policy: measure(
                    replay, thresholds=GUIDED, default=self.default, wide=not self.narrow
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
        if name in ENGLISH and {OURS, BASE} <= set(replays):
            found["gains"] = {
                policy: right_hits(replays[policy].run(found["policies"][policy]["threshold_at_1"]))
                for policy in (OURS, BASE)
            }
            found["difference"] = self.pooled([found["gains"]])
        if self.narrow or name not in ENGLISH:
            return found
        wide = {policy: of for policy, of in replays.items() if policy not in PARTS}
        found["small"] = self._small(scene.stream, wide, found["policies"])
        found["always"] = {
            policy: at_threshold(replay.run(self.default, store="always").counts())
            for policy, replay in wide.items()
        }
        if OURS in replays:
            outcome = replays[OURS].run(self.default)
            found["library"] = compare(scene, outcome, identity=self.bench.vectors.identity)
        return found

    def pooled(self, gains: Sequence[dict[str, NDArray[np.bool_]]]) -> dict[str, float] | None:
        """Compare the right hits of our judge and of the bare cosine over all requests."""
        if not gains:
            return None
        ours, base = (np.concatenate([of[name] for of in gains]) for name in (OURS, BASE))
        return bootstrap(ours, base, seed=self.seed)

    def pairs(self, name: str) -> dict[str, Any]:
        """Measure the policies on a suite of pairs."""
        return {
            policy: self.bench.pairs(self.policies[policy], name, default=self.default)
            for policy in self._policies(parts=name in WRITTEN)
        }

    def without(self, kind: str | None) -> dict[str, Any]:
        """Measure the judge without a kind of its evidence, or whole."""
        policy = judge_policy(without=kind, kept=self.bench.cache)
        streams = [name for name in self.streams if name in ENGLISH]
        points = {name: frontier(self.bench.replay(policy, name)) for name in streams}
        return {
            "streams": {
                name: {"hits_at_1": best_at(of, 0.01), "nauc5": nauc5(of)}
                for name, of in points.items()
            },
            "handwritten_auc": self.bench.pairs(policy, HANDWRITTEN)["auc"],
        }

    def read(self, streams: Sequence[str], pairs: Sequence[str]) -> None:
        """Read all data, and have the model make what is missing: before there are processes."""
        self.streams = streams
        for name in streams:
            self.bench.scene(name)
        for name in pairs:
            suite = self.bench.suite(name)
            self.bench.vectors.of([*suite.stored, *suite.asked])

    def _policies(self, *, parts: bool) -> list[str]:
        return [name for name in self.policies if parts or name not in PARTS]

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


_shared: list[Run] = []  # in a process of the pool


def _measure(task: tuple[str, str | None]) -> dict[str, Any]:
    part, name = task
    run = _shared[-1]
    measured: Any = {"streams": run.stream, "pairs": run.pairs, "ablation": run.without}
    found: dict[str, Any] = measured[part](name)
    return found


def latency(turns: int) -> dict[str, Any]:
    """Time the verifier: the tables of `micro.py verifier` in microseconds, and two figures."""
    tables = {
        table.title: {name: of._asdict() for name, of in micro.times(table, turns).items()}
        for table in micro.verifier(argparse.Namespace(seed=1))
    }
    figures = {}
    if one := tables.get("verifier"):
        figures["one pair"] = one["one pair"]["median"] / 1e3
    if lookups := tables.get("lookup"):
        figures["a lookup"] = lookups["verifier needed"]["times"]
    return {"tables": tables, OURS: figures}


def _arguments() -> argparse.Namespace:
    """Read the command line; `streams` and `pairs` name what is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="the labelled queries")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of embeddings")
    parser.add_argument("--output", type=Path, help=f"by default {RESULTS.name}, of a full run")
    parser.add_argument("--quick", action="store_true", help="mixed, traps and handwritten alone")
    parser.add_argument("--targets", action="store_true", help="what the targets speak of alone")
    parser.add_argument("--page", type=Path, help="also write the tables of this page")
    parser.add_argument("--streams", nargs="*", choices=STREAMS, help="instead of all")
    parser.add_argument("--pairs", nargs="*", choices=PAIRS, help="instead of all")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--ablation", action="store_true", help="also without each evidence")
    parser.add_argument("--threshold", type=float, default=SHIPPED, help="the shipped default")
    parser.add_argument("--peer-python", type=Path, help="asks the peers for their defaults")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--final", action="store_true", help="data kept back: report, never tune")
    arguments = parser.parse_args()
    streams, pairs = [*ENGLISH, *LANGUAGES, BACKGROUND], list(PAIRS)
    if arguments.quick:
        streams, pairs = ["mixed", "traps"], [HANDWRITTEN]
    elif arguments.targets:
        streams, pairs = [*ENGLISH, *LANGUAGES], list(WRITTEN)
    whole = not arguments.quick and arguments.streams is None and arguments.pairs is None
    arguments.name = "targets" if arguments.targets else RESULTS.stem
    arguments.output = arguments.output or (RESULTS.with_stem(arguments.name) if whole else None)
    arguments.streams = streams if arguments.streams is None else arguments.streams
    arguments.pairs = pairs if arguments.pairs is None else arguments.pairs
    return arguments


def _measured(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all that was asked for: the verifier's times alone, then a task a core."""
    found: dict[str, Any] = {"streams": {}, "pairs": {}}
    tasks: list[tuple[str, str | None]] = [("streams", name) for name in arguments.streams]
    tasks += [("pairs", name) for name in arguments.pairs]
    tasks += [("ablation", kind) for kind in (None, *KINDS) if arguments.ablation]
    run.read(arguments.streams, arguments.pairs)
    judge_policy(kept=run.bench.cache)  # reads the model's name once, for all
    _say("read")
    if not arguments.quick:
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            found["latency"] = alone.apply(latency, (TURNS,))
        _say("latency")
    fork = multiprocessing.get_context("fork")  # what has been read is not read again
    with fork.Pool(os.cpu_count(), _shared.append, (run,)) as pool:
        for (part, name), of in zip(tasks, pool.imap(_measure, tasks), strict=True):
            found.setdefault(part, {})[name or "nothing"] = of
            _say(f"{part} {name or 'nothing'}")
    gains = [of.pop("gains") for of in found["streams"].values() if "gains" in of]
    return found | {"pooled_difference": run.pooled(gains)}


def main() -> None:
    """Measure, and write or print."""
    arguments = _arguments()
    _check(arguments)
    peers = probe(arguments.peer_python) if arguments.peer_python else DEFAULTS
    bench = Bench(arguments.data, arguments.cache, final=arguments.final)
    verifier = kept_verifier(bench.cache)
    about = {
        "verifier": "no verifier" if verifier is None else verifier.identity,
        "machine": machine("memora-cache", "numpy", "onnxruntime"),
        "model": bench.vectors.identity,
        "seed": arguments.seed,
        "default": arguments.threshold,
        "final": arguments.final,
        "name": arguments.name,
        "command": _command(),
        "peers": {peer.name: vars(peer) for peer in peers},
    }
    found = {"about": about, **_measured(Run(bench, arguments, peers), arguments)}
    found["targets"] = targets(found)
    about["seconds"] = round(time.perf_counter() - _START)
    if arguments.page:
        page = fill(arguments.page.read_text("utf-8"), found)
        arguments.page.write_text(page, "utf-8")
    output: Path | None = arguments.output
    if output is None:
        print(report(found))
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(_rounded(found), indent=1) + "\n", "utf-8")
    output.with_suffix(".md").write_text(report(found), "utf-8")
    print(f"{output} and {output.with_suffix('.md').name}")


def _check(arguments: argparse.Namespace) -> None:
    """Leave with status 2 where a file is not there, or may not be opened."""
    try:
        missing = absent(arguments.data, arguments.streams, arguments.pairs, final=arguments.final)
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
        left_out = word in {"--peer-python", "--data", "--cache", "--output", "--page"}
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
