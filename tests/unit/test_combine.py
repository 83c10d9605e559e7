"""The fit of judge and verifier, on rows made here: what it writes, and what the band means."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memora.judge import Judge
from memora.judge._calibration import Calibration, log_odds

if TYPE_CHECKING:
    from collections.abc import Sequence

TRAINING = Path(__file__).parents[2] / "training"
ALONE = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.84, 0.9, 0.97, 0.999)
LOGITS = (-9.0, -4.0, -1.0, 0.0, 1.0, 4.0, 9.0)
COSINES = (-0.1, 0.3, 0.6, 0.85, 0.999)

pytest.importorskip("scipy", reason="only training needs it")
pytestmark = pytest.mark.skipif(not TRAINING.is_dir(), reason="not in the source distribution")


@pytest.fixture(scope="module")
def combine() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TRAINING)
        patch.syspath_prepend(TRAINING.parent / "benchmarks/quality")
        import combine  # noqa: PLC0415

        return combine


def rows(combine: Any, name: str, size: int = 600) -> tuple[Any, Any]:
    """Requests with two candidates each, whose label follows both readers, and two odd ones."""
    rng = np.random.default_rng(len(name))
    found = combine.Candidates()
    columns = []
    for at in range(size):
        request = at // 2
        truth = rng.random() < 0.3
        odds = rng.normal(1.5 if truth else -2.5, 2.0)
        logit = rng.normal(2.5 if truth else -2.0, 2.0)
        cosine = rng.uniform(0.5, 1.0)
        found.judged.append(max(1 / (1 + np.exp(-odds)), 0.021))
        found.cosine.append(cosine)
        found.verdict.append(int(truth))
        found.request.append(request)
        found.stored.append("stored")
        found.asked.append("asked")
        found.verified.append(True)
        columns.append((log_odds(found.judged[-1]), logit, cosine))
    columns[3] = (columns[3][0], np.nan, columns[3][2])  # the verifier did not read it
    found.verdict[7] = -1  # nobody labelled it
    found.requests = size // 2
    return found, np.array(columns)


@pytest.fixture(scope="module")
def sources(combine: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    made = {name: rows(combine, name) for name in combine.FITTED}
    return {n: one for n, (one, _) in made.items()}, {n: two for n, (_, two) in made.items()}


@pytest.fixture(scope="module")
def fitted(combine: Any, sources: Any) -> Any:
    return combine.combine(*sources)


@pytest.fixture(scope="module")
def written(combine: Any, fitted: Any) -> dict[str, Any]:
    text = combine.written(fitted, sources={"qqp": 7}, digest="0" * 64, seed=3)
    assert all(len(line) < 1_000 for line in text.splitlines())
    found: dict[str, Any] = json.loads(text)
    return found


def probabilities(written: dict[str, Any], which: str) -> list[tuple[Any, Sequence[float]]]:
    """For each setting of two inputs, the probabilities as the third rises."""
    weights = Calibration(written)
    ranges = {"judge": ALONE, "verifier": LOGITS, "cosine": COSINES}
    fixed = [name for name in ranges if name != which]
    found = []
    for one in ranges[fixed[0]]:
        for other in ranges[fixed[1]]:
            series = []
            for value in ranges[which]:
                point = {fixed[0]: one, fixed[1]: other, which: value}
                features = {"judge": log_odds(point["judge"]), "verifier": point["verifier"]}
                series.append(weights.probability(features, point["cosine"]))
            found.append(((one, other), series))
    return found


@pytest.mark.parametrize("which", ["judge", "verifier", "cosine"])
def test_the_probability_never_falls_as_an_input_rises(written: Any, which: str) -> None:
    for point, series in probabilities(written, which):
        assert all(a <= b + 1e-12 for a, b in pairwise(series)), point


@pytest.mark.parametrize("which", ["judge", "verifier"])
def test_both_readers_count(written: Any, which: str) -> None:
    assert max(series[-1] - series[0] for _, series in probabilities(written, which)) > 0.2


def test_the_file_is_what_the_judge_reads(
    written: dict[str, Any], fitted: Any, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(written), "utf-8")

    weights = Calibration.read(path)

    assert set(written) == {
        "about", "trained", "band", "intercept", "terms", "reach", "bridge", "probability",
    }  # fmt: skip
    assert set(written["terms"]) <= {"judge", "verifier", "cosine"}
    assert written["bridge"] == {}
    assert weights.band == pytest.approx(fitted.band)
    assert written["trained"]["verifier"] == "0" * 64


def test_the_judge_computes_what_was_fitted(
    combine: Any, sources: Any, fitted: Any, written: Any
) -> None:
    found, columns = sources[0]["qqp"], sources[1]["qqp"]
    weights = Calibration(written)

    scores = fitted.scores(found.judged, columns)

    low, high = fitted.band
    for at, (odds, logit, cosine) in enumerate(columns[:60]):
        expected = found.judged[at]
        if low <= expected <= high and not np.isnan(logit):
            expected = weights.probability({"judge": odds, "verifier": logit}, cosine)
        assert scores[at] == pytest.approx(expected, abs=1e-6)


def test_nothing_outside_of_the_band_could_change(combine: Any, sources: Any, fitted: Any) -> None:
    low, high = fitted.band
    assert combine.LOWEST <= low < high <= 1
    for name, columns in sources[1].items():
        judged = np.array(sources[0][name].judged)
        read = ~np.isnan(columns[:, 1])
        best = columns.copy()
        best[:, 1] = 99.0
        for edge, within in ((best, judged < low), (columns, judged > high)):
            p = combine.probability(fitted.points, fitted.model.z(edge[within & read]))
            wanted = p < combine.SERVABLE if edge is best else p >= combine.DEFAULT_THRESHOLD
            assert wanted.all()


class Reader:
    """A verifier that finds every pair the same."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def logits(self, pairs: Sequence[tuple[str, str]], /) -> list[float]:
        self.read += pairs
        return [9.0] * len(pairs)


def test_candidates_are_those_that_the_judge_has_verified(combine: Any) -> None:
    asked = "How do I reset my password?"
    near = [
        ("How can I reset a password?", 0.95, 1),
        ("How do I reset my PIN?", 0.8, 0),
        ("How do I reset my router?", 0.7, 0),
        ("How do I reset my password on Tuesday?", 0.9, 0),
        ("¿Cómo cambio mi contraseña?", 0.9, 0),
        ("What is the capital of France?", 0.1, 0),
    ]
    model = "all-MiniLM-L6-v2"
    found = combine.Candidates()

    found.ask(Judge(model), asked, near)

    reader = Reader()
    everything = json.loads((TRAINING.parent / "tests/data/combination.json").read_text("utf-8"))
    everything["band"] = [combine.LOWEST, 1]
    judge = Judge(model, verifier=reader, combination=Calibration(everything))
    judge.assess(asked, [(text, cosine) for text, cosine, _ in near])
    read = [text for text, verified in zip(found.stored, found.verified, strict=True) if verified]
    assert read == [stored for stored, _ in reader.read]
    assert 0 < len(read) <= 3
    assert found.judged == sorted(found.judged, reverse=True)
    assert found.requests == 1


def test_logits_are_remembered_by_model_and_pair(
    combine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    class Read:
        def __init__(self, model: Path) -> None:
            del model

        def logits(self, pairs: Sequence[tuple[str, str]], /) -> list[float]:
            asked.extend(pairs)
            return [float(len(a) - len(b)) for a, b in pairs]

    monkeypatch.setattr(combine, "OnnxVerifier", Read)
    monkeypatch.setattr(combine, "development_file", Path)  # a temporary folder is named test
    model = tmp_path / "model.onnx"
    model.write_bytes(b"one")
    pairs = [("a", "bcd"), ("bcd", "a"), ("a", "bcd")]

    assert combine.Logits(model, tmp_path, threads=2).logits(pairs) == [-2.0, 2.0, -2.0]
    assert combine.Logits(model, tmp_path, threads=1).logits(pairs) == [-2.0, 2.0, -2.0]
    assert sorted(asked) == [("a", "bcd"), ("bcd", "a")]  # the second read none

    model.write_bytes(b"another")
    combine.Logits(model, tmp_path, threads=1).logits(pairs[:1])
    assert len(asked) == 3


def test_figures_count_hits_of_all_requests(combine: Any) -> None:
    found = combine.Candidates(requests=10, equal=[1])
    found.request, found.verdict = [0, 0, 1, 2], [0, 1, 0, -1]
    found.judged = [0.3] * 4

    _, hits, default, _ = found.figures(np.array([0.5, 0.99, 0.9, 0.2])).split(" | ")

    # The equal text and request 0 are right, request 1 is wrong: a tenth of all.
    assert hits == "20.0 / 20.0 / 20.0"
    assert default == "30.0 / 10.00"
