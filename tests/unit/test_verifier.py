"""The verifier: which candidates it reads, what it changes, and what it must not delay or break."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from doubles import WordEmbedder
from hypothesis import given
from hypothesis import strategies as st

import memora.judge.verifier
from memora import CacheConfig, Memora, _parts
from memora.concurrency.breaker import Breaker
from memora.concurrency.workers import Workers, seconds_to_spare
from memora.errors import DeadlineError, UnavailableError
from memora.judge import VERIFIED, Judge
from memora.judge._calibration import Calibration
from memora.judge.verifier import (
    COMBINATION,
    OTHERS_COMBINATION,
    CachedVerifier,
    OnnxVerifier,
    packaged_verifier,
)
from memora.model import Context, Entry, Evidence, Match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MINILM = "all-MiniLM-L6-v2"
COMBINED = Path(__file__).parents[1] / "data" / "combination.json"
ASKED = "How can I change my password?"
STORED = [
    "How do I change my password?",
    "How can I change my old password?",
    "How can I change my password and email?",
    "How can I delete my account?",
    "Where is the password stored?",
]
ALONE = Judge(MINILM)
CANDIDATES = list(zip(STORED, (0.71, 0.9, 0.62, 0.8, 0.55), strict=True))


class Fake:
    """A verifier that computes logits by a function, and remembers what it read."""

    def __init__(self, logit: Callable[[str, str], float] = lambda *_: 0.0) -> None:
        self.logit, self.read = logit, list[tuple[str, str]]()

    def logits(self, pairs: Sequence[tuple[str, str]], /) -> list[float]:
        self.read += pairs
        return [self.logit(*pair) for pair in pairs]


def combination(**changes: Any) -> Calibration:
    return Calibration(json.loads(COMBINED.read_text("utf-8")) | changes)


def judge(verifier: Fake, *, model: str = MINILM, band: Sequence[float] = (0, 1)) -> Judge:
    weights = combination(band=band)
    return Judge(model, verifier=verifier, combination=weights, others=weights)


def match(query: str, cosine: float) -> Match:
    context = Context("{}", "")
    entry = Entry(id=query, key=b"k", query=query, context=context, created_at=0, expires_at=None)
    return Match(entry, cosine)


# Which candidates are read


def test_the_likeliest_are_read_in_order_and_no_more() -> None:
    alone = [one.similarity for one in ALONE.assess(ASKED, CANDIDATES)]
    likeliest = sorted(range(len(STORED)), key=lambda at: -alone[at])[:VERIFIED]
    fake = Fake()

    found = judge(fake).assess(ASKED, CANDIDATES)

    assert len(set(alone)) == len(STORED)
    assert fake.read == [(STORED[at], ASKED) for at in likeliest]
    assert [at for at, one in enumerate(found) if one.evidence[-1:] == verified(50)] == sorted(
        likeliest
    )


def test_an_unread_candidate_does_not_win_over_those_that_were_refused() -> None:
    asked = "How do I cancel my subscription?"
    stored = [(f"{asked[:-1]}{end}", 0.99) for end in ("?", ".", "!", " please?", " please")]
    refusing, silent = Fake(lambda *_: -9.0), Fake(lambda *_: math.nan)
    alone = Judge(MINILM).assess(asked, stored)

    assert all(one.similarity > 0.85 for one in alone)
    assert max(one.similarity for one in judge(refusing).assess(asked, stored)) < 0.85
    assert judge(silent).assess(asked, stored) == alone
    decided = judge(refusing).decide(asked, [match(*one) for one in stored], threshold=0.0)
    assert decided.evidence[-1].kind == "verifier"


def verified(percent: int) -> tuple[Evidence]:
    read = "one question" if percent > 50 else "two questions"
    return (Evidence("verifier", f"reads them as {read} ({percent} %)"),)


def test_only_candidates_within_the_band_are_read() -> None:
    alone = sorted(one.similarity for one in ALONE.assess(ASKED, CANDIDATES))

    for band, read in (
        ((alone[1], alone[2]), 2),
        ((alone[1] + 1e-9, alone[2]), 1),
        ((alone[1], alone[2] - 1e-9), 1),
        ((alone[-1] + 1e-9, 1), 0),
    ):
        fake = Fake()
        found = judge(fake, band=band).assess(ASKED, CANDIDATES)
        assert len(fake.read) == read
        assert sum("verifier" in {e.kind for e in one.evidence} for one in found) == read


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("¿Cómo cancelo mi suscripción?", "How do I cancel my subscription?"),
        ("Analyze sales\u200b now", "Analyze sales now"),  # barred as unreadable
    ],
)
def test_pairs_of_two_languages_and_barred_candidates_are_not_read(stored: str, asked: str) -> None:
    fake = Fake()

    assert judge(fake).assess(asked, [(stored, 0.9)]) == ALONE.assess(asked, [(stored, 0.9)])
    assert fake.read == []


@pytest.mark.parametrize(("logit", "served"), [(9.0, True), (-9.0, False), (math.nan, False)])
def test_in_other_languages_only_the_verifier_can_lead_to_a_hit(
    logit: float, *, served: bool
) -> None:
    stored, asked = "¿Cómo cancelo mi suscripción?", "¿Cómo cancelo la suscripción?"
    fake = Fake(lambda *_: logit)

    decided = judge(fake).decide(asked, [match(stored, 0.95)], threshold=0.85)

    assert fake.read == [(stored, asked)]
    assert decided.served is served
    assert (decided.reason == "language") is math.isnan(logit)


def test_another_model_or_no_judge_is_not_verified() -> None:
    fake = Fake()
    for model, enabled in (("words-1", True), (MINILM, False)):
        both = Judge(model, enabled=enabled, verifier=fake)  # no combination is read
        alone = Judge(model, enabled=enabled)
        assert both.assess(ASKED, CANDIDATES) == alone.assess(ASKED, CANDIDATES)
    assert fake.read == []


def test_emoji_are_not_given_to_the_model() -> None:
    fake = Fake()
    judge(fake).assess("How can I change it? 🙂", [("How do I change it? 🎉", 0.9)])

    assert fake.read == [("How do I change it?", "How can I change it?")]


# What it changes


def test_the_evidence_says_how_the_verifier_reads_the_pair() -> None:
    yes = judge(Fake(lambda *_: 2.6)).decide(ASKED, [match(STORED[3], 0.8)], threshold=0.5)
    no = judge(Fake(lambda *_: -2.6)).decide(ASKED, [match(STORED[0], 0.8)], threshold=0.9)

    assert yes.evidence[-1:] == verified(93)
    assert no.evidence[-1:] == verified(7)
    assert no.explanation.endswith("; verifier: reads them as two questions (7 %)")


def test_a_candidate_that_only_the_verifier_recognises_is_served() -> None:
    matches = [match(text, 0.8) for text in STORED[:2]]
    fake = Fake(lambda stored, _: 6.0 if stored == STORED[1] else -6.0)

    verdict = judge(fake).decide(ASKED, matches, threshold=0.7)

    assert verdict.served
    assert verdict.nearest == matches[1]
    assert ALONE.decide(ASKED, matches, threshold=0.7).nearest == matches[0]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.sampled_from(STORED))
def test_a_higher_logit_never_lowers_a_similarity(a: float, b: float, stored: str) -> None:
    low, high = (
        judge(Fake(lambda *_, logit=logit: logit)).decide(  # type: ignore[misc]
            ASKED, [match(stored, 0.8), match(STORED[0], 0.7)], threshold=0.5
        )
        for logit in sorted((a, b))
    )

    assert low.similarity is not None
    assert high.similarity is not None
    assert 0 <= low.similarity <= high.similarity < 1
    assert high.served or not low.served


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_cosine_never_lowers_a_verified_similarity(a: float, b: float) -> None:
    low, high = (
        judge(Fake()).assess(ASKED, [(STORED[1], cosine)])[0].similarity
        for cosine in sorted((a, b))
    )

    assert low <= high


def test_without_an_opinion_the_judge_decides_alone() -> None:
    assert judge(Fake(lambda *_: math.nan)).assess(ASKED, CANDIDATES) == ALONE.assess(
        ASKED, CANDIDATES
    )


# The cache of pairs, faults and deadlines


class Rig:
    """A cached verifier with what it reported."""

    def __init__(self, inner: Any, *, failures: int = 5) -> None:
        self.reported: list[Exception] = []
        self.workers = Workers(4, "test-verify")
        self.verifier = CachedVerifier(
            inner,
            workers=self.workers,
            breaker=Breaker(failures=failures),
            report=self.reported.append,
        )

    def logits(self, *pairs: tuple[str, str], within: float | None = None) -> list[float]:
        """Ask as a lookup with a deadline does."""
        if within is None:
            return self.verifier.logits(pairs)
        caller = Workers(1, "test-call")
        try:
            return caller.run(lambda: self.verifier.logits(pairs), within)
        finally:
            caller.close()

    def kinds(self) -> list[type[Exception]]:
        return [type(fault) for fault in self.reported]


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(inner: Any, **settings: Any) -> Rig:
        made.append(Rig(inner, **settings))
        return made[-1]

    yield make
    for one in made:
        one.workers.close()


@pytest.mark.parametrize("within", [None, 60.0])
def test_a_pair_is_read_once(rig: Callable[..., Rig], within: float | None) -> None:
    fake = Fake(lambda stored, asked: len(stored) - 2.0 * len(asked))
    pairs = [("ab", "c"), ("a", "bc"), ("c", "ab"), ("ab", "c"), ("", "abc"), ("\ud800", "x" * 9)]
    one = rig(fake)

    assert one.logits(*pairs, within=within) == [0.0, -3.0, -3.0, 0.0, -6.0, -17.0]
    assert one.logits(*reversed(pairs), within=within) == [-17.0, -6.0, 0.0, -3.0, -3.0, 0.0]
    assert sorted(fake.read) == sorted(set(pairs))


def test_the_pairs_kept_are_bounded(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memora.judge.verifier, "_KEPT", 3)
    fake = Fake()
    one = rig(fake)
    for text in "abcacd":  # the least recently used one makes room
        one.logits((text, "q"))
    assert [stored for stored, _ in fake.read] == ["a", "b", "c", "d"]
    one.logits(("b", "q"), ("a", "q"))
    assert [stored for stored, _ in fake.read[4:]] == ["b"]


def test_a_fault_leaves_the_judge_alone_and_is_reported(rig: Callable[..., Rig]) -> None:
    class Panic(BaseException):
        """As of a library in Rust."""

    def logit(stored: str, _: str) -> float:
        if stored == "bad":
            raise Panic("at the disco")
        return 1.0

    one = rig(Fake(logit))

    known = one.logits(("good", "q"), ("bad", "q"), ("late", "q"))
    assert known[0] == 1.0
    assert [math.isnan(logit) for logit in known[1:]] == [True, True]
    assert len(one.reported) == 1
    assert one.logits(("late", "q")) == [1.0]


@pytest.mark.parametrize("answer", [[], [1.0, 2.0], None])
def test_a_wrong_answer_is_a_fault(rig: Callable[..., Rig], answer: Any) -> None:
    class Wrong:
        def logits(self, _: Any, /) -> Any:
            return answer

    one = rig(Wrong())

    assert math.isnan(one.logits(("a", "b"))[0])
    assert len(one.reported) == 1


def test_a_verifier_that_keeps_failing_is_not_asked_for_a_while(rig: Callable[..., Rig]) -> None:
    fake = Fake(lambda *_: 1 / 0)
    one = rig(fake, failures=2)
    for text in "abcd":
        one.logits((text, "q"))

    assert len(fake.read) == 2
    assert one.kinds() == [ZeroDivisionError] * 2 + [UnavailableError] * 2


def test_a_verifier_that_hangs_takes_half_of_the_time(rig: Callable[..., Rig]) -> None:
    released = threading.Event()

    def logit(stored: str, _: str) -> float:
        if stored == "slow":
            released.wait(60)
        return 2.0

    fake = Fake(logit)
    one = rig(fake)
    started = time.monotonic()

    known = one.logits(("quick", "q"), ("slow", "q"), ("last", "q"), within=1.0)

    assert time.monotonic() - started >= 0.5  # and no DeadlineError of the caller
    assert known[0] == 2.0
    assert math.isnan(known[1])
    assert one.kinds() == [DeadlineError]
    released.set()
    while one.workers._idle == []:
        time.sleep(0.001)
    assert ("last", "q") not in fake.read  # given up, so no further call begins
    assert one.logits(("slow", "q")) == [2.0]  # but what was read is kept
    assert len(fake.read) == 2


def test_without_time_the_verifier_is_not_asked(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    one = rig(fake)
    one.logits(("known", "q"))
    monkeypatch.setattr(memora.judge.verifier, "seconds_to_spare", lambda: 0.0)

    known = one.logits(("known", "q"), ("new", "q"))
    assert known[0] == 0.0
    assert math.isnan(known[1])
    assert len(fake.read) == 1
    assert one.kinds() == [DeadlineError]


def test_half_of_a_wait_is_to_spare() -> None:
    workers = Workers(1, "test")
    try:
        assert seconds_to_spare() is None
        assert workers.run(seconds_to_spare, None) is None
        assert 20 < (workers.run(seconds_to_spare, 60.0) or 0) <= 30
        gone = workers.run(lambda: time.sleep(0.2) or seconds_to_spare(), 0.3)  # type: ignore[func-returns-value]
        assert gone is not None
        assert gone < 0
    finally:
        workers.close()


# Caches


@pytest.fixture
def open_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Memora]]:
    opened: list[Memora] = []
    monkeypatch.setattr("memora.judge.COMBINATION", COMBINED)

    def make(packaged: Fake | None, **settings: Any) -> Memora:
        monkeypatch.setattr(_parts, "packaged_verifier", lambda: packaged)
        embedder = WordEmbedder(identity=f"{MINILM}:words")
        opened.append(Memora(CacheConfig(**settings), embedder=embedder))
        return opened[-1]

    yield make
    for cache in opened:
        cache.close()


PLAIN, NEAR = "How can I change my old password today?", "How can I change my old password now?"


@pytest.mark.parametrize("timeout", [None, 60])
def test_all_operations_agree(
    open_cache: Callable[..., Memora], timeout: float | None, tmp_path: Path
) -> None:
    fake = Fake(lambda *_: 8.0)
    cache = open_cache(fake, lookup_timeout_seconds=timeout)
    cache.store(PLAIN, None, 1)

    found = cache.lookup(NEAR)
    (one,) = cache.lookup_many([(NEAR, None)])
    explained, checked = cache.explain(NEAR), cache.check_availability(NEAR)

    assert fake.read == [(PLAIN, NEAR)]
    assert found.is_hit
    assert found.evidence[-1] == Evidence("verifier", "reads them as one question (100 %)")
    assert (found.similarity, found.evidence) == (one.similarity, one.evidence)
    assert explained.candidates[0].similarity == checked.similarity == found.similarity
    assert explained.candidates[0].evidence == found.evidence
    log = tmp_path / "shadow.jsonl"
    shadow = open_cache(fake, mode="shadow", shadow_log=str(log), lookup_timeout_seconds=timeout)
    shadow.store(PLAIN, None, 1)
    assert shadow.lookup(NEAR).reason == "shadow"
    shadow.store(NEAR, None, 1)
    shadow.close()
    (line,) = (json.loads(text) for text in log.read_text("utf-8").splitlines()[-1:])
    assert line["verifier"] == "on"
    assert line["similarity"] == pytest.approx(found.similarity, abs=1e-3)


def test_off_and_absent_are_as_without_a_verifier(open_cache: Callable[..., Memora]) -> None:
    fake = Fake(lambda *_: 8.0)
    explained = []
    for verifier, setting in ((fake, "off"), (None, "on")):
        cache = open_cache(verifier, verifier=setting)
        cache.store(PLAIN, None, 1)
        (candidate,) = cache.explain(NEAR).candidates
        explained.append((candidate.similarity, candidate.evidence))
        (alone,) = ALONE.assess(NEAR, [(PLAIN, candidate.cosine)])
        assert (candidate.similarity, candidate.evidence) == (alone.similarity, alone.evidence)
    assert fake.read == []


def test_a_verifier_that_fails_is_counted_and_logged_once(
    open_cache: Callable[..., Memora], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = open_cache(Fake(lambda *_: 1 / 0), breaker_failures=3)
    cache.store(PLAIN, None, 1)
    for n in range(10):
        assert cache.lookup(f"{NEAR} {n}").reason in {"semantic", "below_threshold"}

    health = cache.health_check()
    assert cache.get_stats()["errors"]["verify"] == 10
    assert cache.get_stats()["error_rate"] == 0.0
    assert health["status"] == "healthy"
    assert health["metrics"]["recent_errors"]["verify"] == 10
    logged = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert logged.count("not_verified") == 1
    assert "error_type=ZeroDivisionError" in logged
    assert "password" not in logged


def test_a_verifier_that_hangs_delays_no_lookup_beyond_its_deadline(
    open_cache: Callable[..., Memora], capsys: pytest.CaptureFixture[str]
) -> None:
    released = threading.Event()
    cache = open_cache(
        Fake(lambda *_: float(released.wait(60))),
        lookup_timeout_seconds=1.0,
        breaker_reset_seconds=60,
        breaker_failures=2,
    )
    cache.store(PLAIN, None, 1)
    try:
        reasons = [cache.lookup(f"{NEAR} {n}").reason for n in range(2)]
        reasons += [
            one.reason for one in cache.lookup_many([(f"{NEAR} b{n}", None) for n in range(9)])
        ]
    finally:
        released.set()

    assert set(reasons) <= {"semantic", "below_threshold"}
    assert cache.get_stats()["errors"]["verify"] == 11
    assert "error_type=DeadlineError" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)


# The model


def test_an_installation_without_the_files_has_no_verifier(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("_WEIGHTS", "COMBINATION", "OTHERS_COMBINATION"):
        with monkeypatch.context() as patch:
            patch.setattr(memora.judge.verifier, name, tmp_path / "absent")
            assert packaged_verifier() is None


def test_a_damaged_file_is_a_fault(rig: Callable[..., Rig], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    one = rig(OnnxVerifier(tmp_path / "model.onnx"))

    assert math.isnan(one.logits(("a", "b"), within=60.0)[0])
    assert len(one.reported) == 1


packaged = packaged_verifier()
needs_model = pytest.mark.skipif(
    not memora.judge.verifier._WEIGHTS.is_file(), reason="this installation has no verifier"
)


@needs_model
def test_the_packaged_verifier_reads_pairs_independently() -> None:
    assert packaged is not None
    pairs = [*((stored, ASKED) for stored in STORED), ("a", "b" * 60), ("", "")]
    logits = packaged.logits(pairs)

    assert all(map(math.isfinite, logits))
    assert [packaged.logits([pair])[0] for pair in pairs] == logits
    assert len({round(logit, 3) for logit in logits}) == len(pairs)


@needs_model
def test_the_packaged_verifier_and_its_combination_fit_the_judge() -> None:
    both = Judge(MINILM, verifier=packaged)

    assert both.verifies
    for stored in STORED:  # one at a time: some of them are in the band
        (found,), (alone,) = (j.assess(ASKED, [(stored, 0.8)]) for j in (both, ALONE))
        assert 0 <= found.similarity < 1
        assert (found == alone) == (found.evidence == alone.evidence)


@needs_model
def test_a_text_that_is_not_read_in_full_gets_no_opinion() -> None:
    assert packaged is not None
    fits, longer = "word" + " word" * 61, "word" + " word" * 62
    endless = " " * 100_000

    logits = packaged.logits([(fits, fits), (longer, "a"), ("a", longer), (endless, "a")])

    assert [math.isnan(logit) for logit in logits] == [False, True, True, True]


@needs_model
@pytest.mark.parametrize("text", ["a</s>b", "<s>", "<pad>", "<unk>", "\U0001f98a", "\u1208"])
def test_a_text_with_a_reserved_or_unknown_token_gets_no_opinion(text: str) -> None:
    assert packaged is not None
    assert [math.isnan(x) for x in packaged.logits([(text, "a"), ("a", text)])] == [True, True]


@needs_model
@pytest.mark.parametrize("file", [COMBINATION, OTHERS_COMBINATION], ids=lambda file: file.stem)
def test_the_packaged_combination_is_monotone_and_never_extreme(file: Path) -> None:
    weights = json.loads(file.read_text("utf-8"))
    low, high = weights["band"]

    assert set(weights["terms"]) == {"judge", "verifier", "cosine"}
    for points in (*weights["terms"].values(), weights["probability"]):
        xs, ys = zip(*points, strict=True)
        assert list(xs) == sorted(set(xs))
        assert list(ys) == sorted(ys)
    assert weights["bridge"] == {}
    assert 0 <= low < high <= 1


@needs_model
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork by default")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_loaded_verifier_works_in_a_forked_child() -> None:
    assert packaged is not None
    pair = (STORED[0], ASKED)
    known = packaged.logits([pair])

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    child = context.Process(target=lambda: sender.send(packaged.logits([pair])), daemon=True)
    with packaged._lock:  # as while another thread loads it
        child.start()

    assert receiver.poll(60)
    assert receiver.recv() == known
    child.join(60)
