"""The verifier: a small cross-encoder that reads a stored query and the query of a lookup at once.

Like the embedder it runs one input at a time on the CPU, so a logit never depends on other pairs.
"""

from __future__ import annotations

import math
import threading
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from cachetools import LRUCache

from memora._faults import contained
from memora._onnxruntime import open_session
from memora.concurrency.breaker import giving_up, guarded
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside
from memora.concurrency.workers import seconds_to_spare
from memora.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnxruntime
    from tokenizers import Tokenizer

    from memora.concurrency.breaker import Breaker
    from memora.concurrency.workers import Workers
    from memora.protocols import Verifier

LONGEST_TEXT = 62
"""Maximum tokens of one text. A pair is then at most 127 tokens."""
_MODELS = Path(__file__).parents[1] / "models"
_WEIGHTS = _MODELS / "verifier" / "model.onnx"
COMBINATION = _MODELS / "verifier" / "calibration.json"
"""The weights with which the judge combines its own log odds and the logit."""
OTHERS_COMBINATION = COMBINATION.with_name("calibration-others.json")
"""The same for texts in other languages than English."""

_MOST_CHARACTERS = 16 * LONGEST_TEXT  # four or five characters are a token
_KEPT = 4_096  # pairs: those of a thousand lookups or more, in less than a megabyte


class _Runtime(NamedTuple):
    tokenizer: Tokenizer
    session: onnxruntime.InferenceSession
    first: int
    last: int
    reserved: frozenset[int]
    """Tokens that stand for no text of their own, as the unknown one."""


class OnnxVerifier:
    """The packaged model, or another of the same form; loaded at the first use.

    Args:
        weights: An ONNX file with the inputs `input_ids`, `token_type_ids` and `attention_mask`,
            beside its `tokenizer.json`.
    """

    def __init__(self, weights: Path = _WEIGHTS) -> None:
        self._weights = weights
        self._runtime: _Runtime | None = None
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """Create the lock."""
        self._lock = threading.Lock()  # held while a thread loads the model

    def logits(self, pairs: Sequence[tuple[str, str]], /) -> list[float]:
        """See `Verifier.logits`; raises any error of the libraries that run the model."""
        with contained:
            runtime = self._loaded()
            return [_logit(runtime, stored, asked) for stored, asked in pairs]

    def _loaded(self) -> _Runtime:
        with self._lock:
            if self._runtime is None:
                self._runtime = _load(self._weights)
            return self._runtime


def packaged_verifier() -> OnnxVerifier | None:
    """Return the packaged verifier; None if this installation has none."""
    files = (_WEIGHTS, COMBINATION, OTHERS_COMBINATION)
    return OnnxVerifier() if all(file.is_file() for file in files) else None


def _load(weights: Path) -> _Runtime:
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(weights.with_name("tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = tokenizer.get_vocab()
    first, last, *others = (vocabulary[token] for token in ("<s>", "</s>", "<pad>", "<unk>"))
    reserved = frozenset((first, last, *others))
    return _Runtime(tokenizer, open_session(weights), first, last, reserved)


def _logit(runtime: _Runtime, stored: str, asked: str) -> float:
    ids, kinds = [runtime.first], [0]
    for kind, text in enumerate((stored, asked)):
        if len(text) > _MOST_CHARACTERS:  # the tokenizer would block all threads
            return math.nan
        tokens = runtime.tokenizer.encode(text, add_special_tokens=False).ids
        # The texts may differ in what is not read, and one may contain "</s>".
        if len(tokens) > LONGEST_TEXT or not runtime.reserved.isdisjoint(tokens):
            return math.nan
        ids += [*tokens, runtime.last]
        kinds += [kind] * (len(tokens) + 1)
    inputs = {"input_ids": ids, "token_type_ids": kinds, "attention_mask": [1] * len(ids)}
    arrays = {name: np.array([values], np.int64) for name, values in inputs.items()}
    (output,) = runtime.session.run(None, arrays)
    return float(np.asarray(output).item())


class CachedVerifier:
    """Cache of a verifier's logits, which also keeps its faults and delays from the lookup.

    A pair without a logit in time gets NaN. The verifier may use the first half of the time that
    the caller waits, for all lookups of a batch together; the rest is left for everything else.

    Args:
        inner: Reads the pairs that are not in the cache.
        workers: Run the inner verifier if the caller has a deadline.
        breaker: Stops calls for a while after repeated failures.
        report: Called with each fault, and with a DeadlineError if there was no time.
    """

    def __init__(
        self,
        inner: Verifier,
        *,
        workers: Workers,
        breaker: Breaker,
        report: Callable[[Exception], object],
    ) -> None:
        self._inner, self._workers = inner, workers
        self._breaker, self._report = breaker, report
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """Create the lock and the cache, which another thread may have been changing."""
        self._lock = threading.Lock()  # reading an LRU cache moves entries
        self._recent = LRUCache[bytes, float](_KEPT)

    def logits(self, pairs: Sequence[tuple[str, str]], /) -> list[float]:
        """Return for each pair the logit of the inner verifier; NaN after a fault, or too late."""
        keys = [_key(pair) for pair in pairs]
        with self._lock:
            found = {key: self._recent[key] for key in keys if key in self._recent}
        asked = zip(keys, pairs, strict=True)
        if missing := {key: pair for key, pair in asked if key not in found}:
            try:
                self._ask_in_time(missing, found)
            except Exception as fault:  # noqa: BLE001 - the judge can decide alone
                self._report(fault)
        return [found.get(key, math.nan) for key in keys]

    def _ask_in_time(
        self, missing: dict[bytes, tuple[str, str]], found: dict[bytes, float]
    ) -> None:
        ask = partial(inside.run, partial(self._ask, missing, found))
        seconds = seconds_to_spare()
        if seconds is None:
            ask()
        elif seconds <= 0:
            raise DeadlineError("no time was left for the verifier")
        else:
            with giving_up():
                self._workers.run(ask, seconds)

    def _ask(self, missing: dict[bytes, tuple[str, str]], found: dict[bytes, float]) -> None:
        """Add logits to the cache and to `found`, one by one: some are better than none."""
        for key, pair in missing.items():
            (found[key],) = guarded(self._breaker, self._inner.logits, [pair])
            with self._lock:
                self._recent[key] = found[key]


def _key(pair: tuple[str, str]) -> bytes:
    """Return a digest of a pair, which bounds the memory of a cached pair whatever its length."""
    stored, asked = (text.encode("utf-8", "surrogatepass") for text in pair)
    return blake2b(b"%d %b%b" % (len(stored), stored, asked), digest_size=16).digest()
