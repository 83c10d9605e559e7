"""Fit how the judge and the verifier are combined, on the candidates of development streams.

    python training/combine.py [--data ../shared/data] [--model model.onnx] [--check]

Writes the calibrations in `src/memora/models/verifier`. Needs the dependency group "train";
README.md beside this file says what is fitted on what.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "quality"))

import numpy as np
from additive import Additive, Form, differences, document, fit, fit_map, probability
from data import NEGATIVES, RIGHT, STREAMS, UNKNOWN, WRONG, Stream, development_file, records
from families import kept
from metrics import auc, reliability
from replay import Replay, Scene
from vectors import Vectors, default_cache, readable
from verifier_pairs import EVALUATED_ONLY, evaluation, families

from memora._characters import without_emoji
from memora.context import canonical_query
from memora.judge import LEAST_LOGIT, VERIFIED, Judge
from memora.judge._calibration import Calibration, log_odds
from memora.judge._language import language_of
from memora.judge.verifier import COMBINATION, OTHERS_COMBINATION, OnnxVerifier
from memora.pipeline import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Texts = tuple[str, str]

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "src" / "memora" / "models" / "verifier"
SEED: Final = 3

STREAMED: Final = ("mixed", "traps", "qqp")
FAMILIES, FAMILIES_ML = "families", "families_ml"
ENGLISH: Final = (*STREAMED, FAMILIES)
OTHERS: Final = ("parakqc_ko", FAMILIES_ML)
PARALLEL: Final = "xsid_multi"
"""A stream in many languages, only measured: its labels call "will it rain today" and "is it going
to rain today" two questions."""
FITTED: Final = (*ENGLISH, *OTHERS)
CANNED: Final = ("banking77", "clinc150")
"""Streams of canned answers: only measured, since the verifier rightly tells intents apart."""
REPLAYED: Final = (*STREAMED, *CANNED, PARALLEL, OTHERS[0])
SUITES: Final = (
    "testers", "strangers", "handwritten", "synthetic", FAMILIES, "strangers_ml", FAMILIES_ML,
)  # fmt: skip
"""Of `verifier_pairs.evaluation`; the calibration is not fitted on them, except on families."""
ASKED: Final = {"qqp": 2_500, "banking77": 800, "clinc150": 800}
"""Requests of a stream that are drawn; all of any other."""
ROUNDS: Final = 2  # wordings of each family that are stored, one after the other
SAME_NEED: Final = 0.85  # cosine from which on wordings of two families may be one need
LOWEST: Final = 0.02  # the judge's probability from which on a pair may get a logit
FOLLOWING: Final = 0.2
"""What a request's second and third candidate count in the fit: few of them are served."""
FORM: Final = Form(
    knots={
        "judge": (-5.2, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0),
        "verifier": (-6.0, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.5, 6.0),
        "cosine": (0.4, 0.6, 0.7, 0.8, 0.9, 1.0),
    },
    signs={"judge": 1, "verifier": 1, "cosine": 1},
    bridge=None,
)
WEIGHTS: Final = {
    "mixed": 10_000, "traps": 12_000, "qqp": 2_000, FAMILIES: 4_000,
    "parakqc_ko": 6_000, FAMILIES_ML: 6_000,
}  # fmt: skip
"""What a source counts in the fit, whatever its number of rows."""
MAP: Final = {
    "mixed": 6, "traps": 3, "qqp": 1, FAMILIES: 0.5, "parakqc_ko": 2, FAMILIES_ML: 2,
}  # fmt: skip
"""What a source counts in the map to a probability."""
DEFAULT_THRESHOLD: Final = 0.85
SERVABLE: Final = 0.75  # the band begins where a pair could reach this
ERRORS: Final = (0.005, 0.01, 0.02)
_SAVED: Final = 2_000  # logits after which they are written
TOLERANCE: Final = 0.01  # other machines add up, and embed, with other last digits


@dataclass
class Candidates:
    """The candidates of the requests of one source, for each request the likeliest first."""

    requests: int = 0
    """All that were asked, also those without a candidate."""
    equal: list[int] = field(default_factory=list)
    """RIGHT, WRONG or UNKNOWN for each request that an equal text answered."""
    stored: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)
    """The judge's probability."""
    verdict: list[int] = field(default_factory=list)
    """Whether the stored answer is right: RIGHT, WRONG or UNKNOWN."""
    request: list[int] = field(default_factory=list)
    verified: list[bool] = field(default_factory=list)
    """Whether the verifier would read the pair."""

    def __len__(self) -> int:
        return len(self.request)

    def ask(self, judge: Judge, asked: str, found: Sequence[tuple[str, float, int]]) -> None:
        """Add a request with its candidates.

        Args:
            judge: Without a verifier.
            asked: The text of the request.
            found: Text, cosine and verdict of each candidate, nearest first.
        """
        # In another language the judge alone refuses a pair, or leaves it to the verifier.
        english = language_of(asked) in {"", "en"}
        rated = [
            (one.similarity, english or one.barred == "language", *candidate)
            for one, candidate in zip(
                judge.assess(asked, [(text, cosine) for text, cosine, _ in found]),
                found,
                strict=True,
            )
            if one.barred in {None, "language"} and one.similarity >= LOWEST
        ]
        left = VERIFIED
        for p, verifiable, text, cosine, verdict in sorted(rated, key=lambda one: -one[0]):
            self.stored.append(text)
            self.asked.append(asked)
            self.cosine.append(cosine)
            self.judged.append(p)
            self.verdict.append(verdict)
            self.request.append(self.requests)
            self.verified.append(verifiable and left > 0)
            left -= verifiable
        self.requests += 1

    def columns(self, logits: Logits) -> Floats:
        """Return the columns of FORM; NaN for the verifier where it does not read the pair."""
        found = np.full((len(self), len(FORM.features)), np.nan)
        found[:, 0] = [log_odds(p) for p in self.judged]
        found[:, 2] = self.cosine
        at = np.flatnonzero(self.verified)
        found[at, 1] = logits.logits([(self.stored[i], self.asked[i]) for i in at])
        return found

    def best(self, scores: Floats) -> NDArray[np.intp]:
        """Return the row of each request with the greatest score, the first of equal ones."""
        request = np.array(self.request)
        order = np.lexsort((-scores, request))
        return np.asarray(order[np.unique(request[order], return_index=True)[1]])

    def figures(self, scores: Floats) -> str:
        """Return hits at 0.5, 1 and 2 % of error, hits and error at the default, and more.

        What is stored does not depend on the scores here, unlike in a replay.
        """
        verdict = np.array(self.verdict)
        best = self.best(scores)
        best = best[np.argsort(-scores[best], kind="stable")]
        equal = np.array(self.equal, int)
        served = np.concatenate([np.ones(len(equal)), scores[best]])
        wrong = np.concatenate([equal, verdict[best]]) == WRONG
        hits = [
            (np.cumsum(wrong) <= error * self.requests).sum() / self.requests for error in ERRORS
        ]
        at = served >= DEFAULT_THRESHOLD
        known = best[verdict[best] != UNKNOWN]
        ece = reliability(scores[known], verdict[known] == RIGHT)["ece"]
        rows = verdict != UNKNOWN
        return (
            f"{auc(scores[rows], verdict[rows] == RIGHT) or math.nan:.3f} | "
            f"{' / '.join(f'{100 * x:.1f}' for x in hits)} | "
            f"{100 * at.mean() * len(at) / self.requests:.1f} / "
            f"{100 * (at & wrong).sum() / self.requests:.2f} | {ece:.3f}"
        )


class Logits:
    """The verifier's logits, remembered on disk by the model's digest and the pair.

    Args:
        model: The ONNX file.
        folder: Where they are remembered.
        threads: Pairs that are read at the same time.
    """

    def __init__(self, model: Path, folder: Path, *, threads: int) -> None:
        self.digest = hashlib.sha256(development_file(model).read_bytes()).hexdigest()
        self._path = folder / f"logits-{self.digest[:16]}.json"
        self._verifier, self._threads = OnnxVerifier(model), threads
        self._known: dict[str, float] = {}
        if self._path.is_file():
            self._known = json.loads(development_file(self._path).read_bytes())

    def __len__(self) -> int:
        return len(self._known)

    def logits(self, pairs: Sequence[Texts], /) -> list[float]:
        """Return the logits of pairs, as `memora.protocols.Verifier`."""
        clean = [(without_emoji(stored), without_emoji(asked)) for stored, asked in pairs]
        keys = [hashlib.sha256(json.dumps(pair).encode()).hexdigest()[:24] for pair in clean]
        found = dict(zip(keys, clean, strict=True))
        missing = [(key, pair) for key, pair in found.items() if key not in self._known]
        for start in range(0, len(missing), _SAVED):
            chunk = missing[start : start + _SAVED]
            with ThreadPoolExecutor(self._threads) as pool:
                read = pool.map(lambda one: self._verifier.logits([one[1]])[0], chunk)
                self._known |= zip((key for key, _ in chunk), read, strict=True)
            self._path.write_text(json.dumps(self._known), "utf-8")
        return [self._known[key] for key in keys]


class Alone:
    """The judge without a verifier, as a policy of a replay."""

    name = "judge"
    depth = CANDIDATES

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def scores(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[float]:
        """Return the probabilities that the stored answers are right."""
        found = self._judge.assess(query, candidates)
        return [0.0 if one.barred else one.similarity for one in found]


def streamed(scene: Scene, judge: Judge, asked: int | None, seed: int) -> Candidates:
    """Return the candidates of a stream's requests, as a cache with the judge alone stores them.

    Args:
        scene: The stream.
        judge: Without a verifier.
        asked: Requests to draw; None for all.
        seed: Of the draw.
    """
    stream = scene.stream
    outcome = Replay(scene, Alone(judge)).run(DEFAULT_THRESHOLD)
    kept_rows = ~outcome.hit & readable(scene.vectors)
    stored = np.append(kept_rows, False)
    requests = list(range(len(stream)))
    if asked is not None and asked < len(stream):
        requests = sorted(random.Random(seed).sample(requests, asked))
    found = Candidates()
    for i in requests:
        if outcome.exact[i]:
            found.equal.append(int(outcome.verdicts[i]))
            found.requests += 1
            continue
        rows, cosines = scene.candidates(i, stored, CANDIDATES)
        verdicts = stream.verdicts(np.full(len(rows), i), rows)
        texts = [stream.texts[row] for row in rows.tolist()]
        near = zip(texts, cosines.tolist(), verdicts.tolist(), strict=True)
        found.ask(judge, stream.texts[i], list(near))
    return found


def among(
    scene: Scene, needs: Sequence[dict[str, Any]], vectors: Vectors, judge: Judge
) -> Candidates:
    """Return the candidates of families' wordings and near misses, among the texts of a stream.

    One wording of each family is stored beside the texts of the stream; its others and its near
    misses are asked. Then the same with another wording.

    Args:
        scene: The stream, of which is stored what a cache with the judge alone stores.
        needs: The families.
        vectors: Of texts.
        judge: Without a verifier.
    """
    outcome = Replay(scene, Alone(judge)).run(DEFAULT_THRESHOLD)
    entries = np.flatnonzero(~outcome.hit & readable(scene.vectors))
    found = Candidates()
    for turn in range(ROUNDS):
        own = [canonical_query(need["same"][turn]) for need in needs]
        texts = [*(scene.stream.texts[at] for at in entries.tolist()), *own]
        table = np.vstack([scene.vectors[entries], vectors.of(own)])
        for number, need in enumerate(needs, len(entries)):
            asked = [(text, True) for at, text in enumerate(need["same"]) if at != turn]
            asked += [(near["q"], False) for near in need["near"]]
            rows = vectors.of([canonical_query(text) for text, _ in asked])
            for (text, repeat), cosines in zip(asked, rows @ table.T, strict=True):
                nearest = np.argsort(-cosines, kind="stable")[:CANDIDATES]
                doubtful = (nearest >= len(entries)) & (cosines[nearest] >= SAME_NEED)
                verdicts = np.where(doubtful, UNKNOWN, WRONG)
                verdicts[nearest == number] = RIGHT if repeat else WRONG
                near_texts = [texts[at] for at in nearest]
                near = zip(near_texts, cosines[nearest].tolist(), verdicts.tolist(), strict=True)
                found.ask(judge, canonical_query(text), list(near))
    return found


def collected(data: Path, vectors: Vectors, judge: Judge, seed: int) -> dict[str, Candidates]:
    """Return the candidates of all sources."""
    negatives = json.loads(development_file(data / NEGATIVES).read_bytes())
    found: dict[str, Candidates] = {}
    for name in REPLAYED:
        stream = Stream.of(name, records(data / STREAMS[name]), negatives)
        scene = Scene.of(stream, vectors.of(stream.texts), vectors.folder)
        found[name] = streamed(scene, judge, ASKED.get(name), seed)
        if beside := {STREAMED[0]: FAMILIES, PARALLEL: FAMILIES_ML}.get(name):
            needs = [
                one
                for one in families(data)
                if (one["lang"] == "en") is (beside == FAMILIES) and kept(one["family"])
            ]
            found[beside] = among(scene, needs, vectors, judge)
    return found


class Combination(NamedTuple):
    """What is fitted."""

    model: Additive
    points: list[list[float]]
    """The map to a probability."""
    band: tuple[float, float]
    least: float
    """The logit below which a pair is refused."""

    def scores(self, judged: Sequence[float], columns: Floats) -> Floats:
        """Return the probabilities of pairs: those of the judge where the verifier is not asked."""
        low, high = self.band
        p = np.array(judged)
        asked = (low <= p) & (p <= high) & ~np.isnan(columns[:, 1])
        p[asked] = probability(self.points, self.model.z(columns[asked]))
        if math.isfinite(self.least):  # nothing is served that the verifier does not favour
            p[~asked | (columns[:, 1] < self.least)] = 0.0
        return p


def combine(
    sources: dict[str, Candidates], columns: dict[str, Floats], *, least: float = -math.inf
) -> Combination:
    """Fit the combination, its map and the band.

    Args:
        sources: Candidates by source.
        columns: Their columns of FORM.
        least: The logit below which a pair is refused, and not fitted on.
    """
    labels, rows, weights, lists = {}, {}, {}, []
    for name, found in sources.items():
        verdict = np.array(found.verdict)
        labels[name] = (verdict == RIGHT).astype(np.float64)
        rows[name] = np.flatnonzero((verdict != UNKNOWN) & (columns[name][:, 1] >= least))
        first = np.append(True, np.diff(found.request) > 0)
        weight = np.where(first, 1.0, FOLLOWING)[rows[name]]
        weights[name] = WEIGHTS[name] * weight / weight.sum()
    model = fit(
        np.vstack([columns[name][at] for name, at in rows.items()]),
        np.concatenate([labels[name][at] for name, at in rows.items()]),
        np.concatenate(list(weights.values())),
        FORM,
    )
    for name, found in sources.items():
        z = np.full(len(found), -np.inf)
        z[rows[name]] = model.z(columns[name][rows[name]])
        best = found.best(z)
        best = best[np.isfinite(z[best])]
        lists.append((float(MAP[name]), z[best], labels[name][best]))
    points = fit_map(lists)
    judged = np.concatenate([np.array(sources[name].judged)[at] for name, at in rows.items()])
    read = np.vstack([columns[name][at] for name, at in rows.items()])
    low, high = band(model, points, judged, read)
    return Combination(model, points, (low, 1.0 if math.isfinite(least) else high), least)


def band(
    model: Additive, points: list[list[float]], judged: Floats, columns: Floats
) -> tuple[float, float]:
    """Return the judge's probabilities between which the verifier can change what is served.

    Below, no pair could reach SERVABLE, whatever its logit; above, none was taken below the default
    threshold.
    """
    highest = columns.copy()
    highest[:, 1] = FORM.knots["verifier"][-1]
    servable = judged[probability(points, model.z(highest)) >= SERVABLE]
    refused = judged[probability(points, model.z(columns)) < DEFAULT_THRESHOLD]
    low = max(math.floor(1_000 * servable.min(initial=1.0)) / 1_000, LOWEST)
    return low, max(math.ceil(1_000 * refused.max(initial=0.0)) / 1_000, low)


def main() -> int:
    """Collect, fit, tell how well, and write or compare."""
    options = _options()
    data: Path = options.data
    wanted = [*(STREAMS[name] for name in REPLAYED), *EVALUATED_ONLY.values()]
    needed = [data / name for name in (*wanted, NEGATIVES)] + [options.model]
    if absent := [str(path) for path in needed if not development_file(path).is_file()]:
        print(f"absent: {', '.join(absent)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    vectors = Vectors(options.cache)
    judge = Judge(vectors.identity)
    logits = Logits(options.model, options.cache, threads=options.threads)
    sources = collected(data, vectors, judge, options.seed)
    columns = {}
    for name, found in sources.items():
        columns[name] = found.columns(logits)
        print(
            f"{name:9} {found.requests:5,} requests, {sum(found.verified):6,} pairs read; "
            f"{len(logits):,} logits known after {time.monotonic() - started:.0f} s",
            flush=True,
        )

    def fitted(names: Iterable[str], group: tuple[str, ...]) -> Combination:
        least = LEAST_LOGIT if group is OTHERS else -math.inf
        names = list(names)
        return combine({n: sources[n] for n in names}, {n: columns[n] for n in names}, least=least)

    groups = {name: group for group in (ENGLISH, OTHERS) for name in group} | {PARALLEL: OTHERS}
    finals = {group: fitted(group, group) for group in (ENGLISH, OTHERS)}
    print(
        "\nEach source with the judge alone, with the combination fitted on the others, and with "
        "that fitted on all:\n\n| source | | AUC | hits at 0.5 / 1 / 2 % | hits / wrong at "
        f"{DEFAULT_THRESHOLD} | calibration error |\n|---|---|---|---|---|---|"
    )
    for name, found in sources.items():
        group = groups.get(name, ENGLISH)
        print(f"| {name} | judge | {found.figures(np.array(found.judged))} |")
        for what, one in (
            ("others", fitted([n for n in group if n != name], group) if name in FITTED else None),
            ("all", finals[group]),
        ):
            if one is not None:
                print(f"| | {what} | {found.figures(one.scores(found.judged, columns[name]))} |")
    texts = [
        written(
            final,
            sources={name: sum(sources[name].verified) for name in group},
            digest=logits.digest,
            seed=options.seed,
        )
        for group, final in finals.items()
    ]
    english, others = (Calibration(json.loads(text)) for text in texts)
    _tell_suites(
        data,
        vectors,
        judge,
        Judge(vectors.identity, verifier=logits, combination=english, others=others),
    )
    for group, final in finals.items():
        print(f"{', '.join(group)}: band {final.band}")
    print(f"{time.monotonic() - started:.0f} s")
    files = zip((COMBINATION.name, OTHERS_COMBINATION.name), texts, strict=True)
    paths = {options.output / name: text for name, text in files}
    if options.check:
        return int(max(_difference(path, text) for path, text in paths.items()) > TOLERANCE)
    for path, text in paths.items():
        path.write_text(text, "utf-8")
    return 0


def _difference(path: Path, text: str) -> float:
    """Print and return by how much a fit differs from the file."""
    before = json.loads(development_file(path).read_bytes())
    where, worst = max(differences(before, json.loads(text)), key=lambda x: x[1], default=("", 0.0))
    print(f"{path.name}: differs most in {where or 'nothing'}, by {worst}")
    return worst


def _tell_suites(data: Path, vectors: Vectors, alone: Judge, both: Judge) -> None:
    print(
        f"\nRepeats / traps served at {DEFAULT_THRESHOLD}, in percent:\n\n"
        "| pairs | judge | with the verifier | AUC |\n|---|---|---|---|"
    )
    for name in SUITES:
        pairs = evaluation(data, most=1_200)[name]
        same = np.array([pair.same for pair in pairs])
        stored = [canonical_query(pair.a) for pair in pairs]
        asked = [canonical_query(pair.b) for pair in pairs]
        cosines = np.einsum("ij,ij->i", vectors.of(stored), vectors.of(asked)).tolist()
        cells, areas = [], []
        for judge in (alone, both):
            found = [
                judge.assess(query, [(text, cosine)])[0]
                for query, text, cosine in zip(asked, stored, cosines, strict=True)
            ]
            scores = np.array([0.0 if one.barred else one.similarity for one in found])
            served = scores >= DEFAULT_THRESHOLD
            cells.append(f"{100 * served[same].mean():.1f} / {100 * served[~same].mean():.1f}")
            areas.append(f"{auc(scores, same):.3f}")
        print(f"| {name} | {' | '.join(cells)} | {' -> '.join(areas)} |")


def written(fitted: Combination, *, sources: dict[str, int], digest: str, seed: int) -> str:
    """Return the file that the judge reads.

    Args:
        fitted: What to write.
        sources: The number of pairs that were read, by source.
        digest: SHA-256 of the verifier's file.
        seed: Of the draws.
    """
    return document(
        fitted.model,
        fitted.points,
        about="How the judge's log odds, the verifier's logit and the cosine are combined where "
        "the judge's probability is within the band; training/README.md says what it was fitted "
        "on.",
        trained={
            "command": "python training/combine.py",
            "seed": seed,
            "verifier": digest,
            "sources": sources,
        },
        band=fitted.band,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of vectors and logits")
    parser.add_argument("--model", type=Path, default=FOLDER / "model.onnx", help="the verifier")
    parser.add_argument("--output", type=Path, default=FOLDER, help="a folder")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
