"""How long a text is, or how much an argument holds, does not decide how long others wait."""

from __future__ import annotations

import random
import threading
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import orjson
import pyarrow as pa
import pytest

import memora
from memora import CacheConfig, Memora, context, pipeline
from memora.cli import querylog
from memora.codec import Codec
from memora.codec._envelope import seal
from memora.context import canonical_context, canonical_query, is_large
from memora.embedders import CachedEmbedder, FunctionEmbedder, OnnxEmbedder
from memora.embedders._window import longest, may_fit, squeezed
from memora.errors import ContextError, CorruptEntryError, SerializationError, TransferError
from memora.judge._text import analyse
from memora.model import Content
from memora.transfer import _items

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGED = Path(memora.__file__).parent / "models" / "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def packaged() -> OnnxEmbedder:
    return OnnxEmbedder(PACKAGED, digest="x")


class Counting:
    """Counts words as tokens, and the characters that were read for it."""

    read = 0

    def __call__(self, text: str) -> int:
        self.read += len(text)
        return len(text.split())


def test_a_text_beyond_the_window_is_told_by_its_beginning() -> None:
    count = Counting()
    assert not may_fit("a " * 15_000, 256, count)
    assert count.read <= 20 * 256
    assert not may_fit("a " * 5_000_000, 256, count)
    assert count.read <= 20 * 256


def test_no_text_within_the_window_is_refused() -> None:
    rng = random.Random(1)  # noqa: S311
    for _ in range(300):
        words = [
            "x" * rng.randint(1, 30) + " " * rng.randint(1, 30) for _ in range(rng.randint(1, 90))
        ]
        text = "".join(words)
        window = rng.choice((8, 32, 90))
        assert may_fit(text, window, lambda part: len(part.split())) or len(words) > window


def test_white_space_of_any_length_leaves_a_text_its_vector(packaged: OnnxEmbedder) -> None:
    (expected,) = packaged.embed(["monthly revenue by region"])
    gaps = (" " * 3_000_000, "\n" * 70_000, "\t \r\n" * 20_000)
    for gap in gaps:
        (vector,) = packaged.embed([f"monthly revenue{gap}by{gap}region"])
        assert vector is not None
        assert np.array_equal(vector, expected)


def test_a_text_that_just_fits_has_a_vector(packaged: OnnxEmbedder) -> None:
    fits, beyond = ("revenue " * words for words in (254, 255))
    found = packaged.embed([fits, beyond, "revenue " * 200_000, "%1" * 200_000, "中" * 200_000])
    assert [vector is not None for vector in found] == [True, False, False, False, False]


def test_runs_of_white_space_become_one_space() -> None:
    assert squeezed("a \n b" + " " * 200_000 + "c", 100) == "a b c"
    assert len(squeezed("ab" * 10_000_000, 100)) <= 100_000


def test_a_window_is_never_read_without_end() -> None:
    assert longest(256) == 32_768
    assert longest(8192) == 16 * 8192


def test_a_function_gets_no_text_of_more_than_a_million_characters() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return [[1.0, 0.0] for _ in texts]

    embedder = FunctionEmbedder(embed, identity="x", dimension=2)
    whole, beyond = embedder.embed(["a" * 1_000_000, "a" * 1_000_001])
    assert (whole is not None, beyond) == (True, None)
    assert len(asked) == 1
    fits = FunctionEmbedder(embed, identity="x", dimension=2, fits=lambda _: True)
    assert fits.embed(["a" * 1_000_001])[0] is not None


def test_a_long_text_is_remembered_without_being_kept() -> None:
    calls: list[Sequence[str]] = []

    def embed(texts: list[str]) -> list[list[float]]:
        calls.append(texts)
        return [[1.0, 0.0] for _ in texts]

    cached = CachedEmbedder(FunctionEmbedder(embed, identity="x", dimension=2), 10)
    text = "long " * 1000
    assert np.array_equal(cached.embed([text])[0], cached.embed([text])[0])
    assert len(calls) == 1
    assert text not in cached._recent
    cached.embed([text[:-1] + "."])
    assert len(calls) == 2


ALPHABET = "ab é\u0301\u0316\u0323\u0344\u1100\u1161\u11a8가\u09c7\u09be中\U0001d15e\u0f73ก\u0e34"


def test_a_text_is_normalised_piece_by_piece_as_a_whole() -> None:
    rng = random.Random(2)  # noqa: S311
    for _ in range(200):
        length = rng.choice((5, 100, 9_000))
        text = "".join(rng.choice(ALPHABET) for _ in range(length))
        assert context._composed_carefully(text) == unicodedata.normalize("NFC", text)


def test_no_character_before_which_a_text_is_cut_joins_what_is_before() -> None:
    for code in (*range(0x11000), *range(0x1D000, 0x20000), *range(0xE0000, 0xE0200)):
        character = chr(code)
        if context._PLAIN.match(character):
            assert context._JOINS[code] == "."
        if context._JOINS[code] == "." and not 0xD800 <= code < 0xE000:
            assert unicodedata.combining(character) == 0
            assert unicodedata.combining(unicodedata.normalize("NFD", character)[0]) == 0


@pytest.mark.parametrize("marks", [63, 64, 200, 70_000])
def test_marks_in_a_row_are_sorted_up_to_a_limit(marks: int) -> None:
    text = "x" + "\u0301\u0316" * (marks // 2) + "\u0344" * (marks % 2) + " e\u0301"
    found = canonical_query(text)
    assert found.endswith(" é")
    assert canonical_query(found) == found
    if marks < 1_000:  # more would take a minute to sort
        assert (found == unicodedata.normalize("NFC", text)) == (marks < 64)


def test_a_context_that_is_too_large_is_refused() -> None:
    assert canonical_context({"a": list(range(90_000))})
    for large in ({"a": [[]] * 200_000}, {"a": "x" * 17_000_000}, {"a": bytes(9_000_000)}):
        with pytest.raises(ContextError, match="too large: expected up to 100,000 values"):
            canonical_context(large)
    nested = frozenset(range(5_000))
    for number in range(200):
        nested = frozenset([nested, number])
    with pytest.raises(ContextError, match="too large"):
        canonical_context({"a": [nested] * 10})


def test_an_error_names_a_place_without_quoting_all_of_the_way() -> None:
    deep: Any = float("nan")
    for _ in range(40):
        deep = {"k" * 100_000: deep}
    with pytest.raises(ContextError, match=r"context\['k{40}'…\].*… is NaN") as caught:
        canonical_context(deep)
    assert len(str(caught.value)) < 2_000


def test_only_long_contexts_are_not_remembered() -> None:
    context._context_of_texts.cache_clear()
    canonical_context({"a": "x"})
    canonical_context({"a": "x" * 100_000})
    assert context._context_of_texts.cache_info().currsize == 1


def test_what_is_large_is_told_quickly() -> None:
    assert not is_large("short", {"a": [1, 2, {"b": ("c", None)}]})
    assert is_large("x" * 20_000, None)
    assert is_large("short", {"a": [{"b": 1}] * 600})
    assert is_large("short", {"a": {"b": ["x" * 20_000]}})


@pytest.mark.parametrize("large", [True, False])
def test_a_task_leaves_large_arguments_to_a_worker(
    large: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where: list[int] = []
    of = pipeline.Request.of

    def noted(*given: Any) -> pipeline.Request:
        where.append(threading.get_ident())
        return of(*given)

    monkeypatch.setattr(pipeline.Request, "of", noted)
    given = {"doc": "x" * (50_000 if large else 50)}

    async def ask(cache: Memora) -> None:
        assert await cache.astore("total sales", given, 1)
        assert (await cache.alookup("total sales", given)).result == 1
        assert (await cache.alookup_many(["total sales"], given))[0].result == 1
        assert await cache.astore_many([("total cost", given, 1)])

        async def compute() -> int:
            return 2

        assert await cache.aget_or_compute("total sales", given, compute) == 1

    with Memora(CacheConfig(), embedder=_embed) as cache:
        anyio.run(ask, cache)
    assert len(where) == 5
    assert (threading.get_ident() not in where) is large


def _embed(texts: list[str]) -> list[list[float]]:
    return [[1.0, 0.0] for _ in texts]


def test_the_judge_keeps_no_more_of_a_text_than_it_reads() -> None:
    text = "word " * 1_600
    one, other = analyse(text + "a" * 100_000), analyse(text + "b" * 100_000)
    assert one.rest != other.rest
    assert one.sequence == other.sequence == analyse(text).sequence
    assert analyse(text).rest == 0


def forged(times: int) -> bytes:
    """Return a payload of a megabyte that would be so many."""
    tree = orjson.dumps([{"!": ["bytes", {"!": 0}]}] * times)
    return seal(tree, [memoryview(bytes(1_000_000))], plain=False)


def test_a_payload_may_grow_as_the_setting_says() -> None:
    payload = forged(100)
    with pytest.raises(CorruptEntryError, match="max_expansion"):
        Codec().decode(payload)
    assert len(Codec(max_expansion=100).decode(payload)) == 100
    assert len(Codec().decode(forged(60))) == 60  # within what is always allowed


def test_a_result_that_could_not_be_read_is_not_stored() -> None:
    with pytest.raises(SerializationError, match="describes far more than it holds"):
        Codec().encode(pa.table({"a": pa.nulls(2**31 - 1)}))


def test_a_refused_payload_is_a_miss_and_leaves_the_store() -> None:
    with Memora(CacheConfig(log_level="ERROR"), embedder=_embed) as cache:
        cache.store("total sales", None, 1)
        request = pipeline.Request.of("total sales", None)
        entry = cache._ports.store.peek(request.key, now=0.0)
        assert entry is not None
        cache._ports.store.put(entry, Content(forged(100), "{}"), vector=None)
        assert cache.lookup("total sales").reason == "error"
        assert cache.lookup("total sales").reason == "no_candidate"
        assert cache.get_stats()["total_entries"] == 0


def test_a_line_that_is_too_long_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_items, "_LEAST_LINE", 100)
    monkeypatch.setattr(_items, "_LINE_A_PAYLOAD", 0)
    path = tmp_path / "items.jsonl"
    lines = [{"query": "a", "result": 1}, {"query": "b" * 300, "result": 1}]
    path.write_bytes(b"\n".join(map(orjson.dumps, [*lines, {"query": "c", "result": 3}])))
    with Memora(CacheConfig(), embedder=_embed) as cache:
        with pytest.raises(TransferError, match="line 2: longer than 100 bytes"):
            cache.warm(path)
        moved = cache.import_entries(path, skip_errors=True)
        assert (moved.written, moved.broken) == (2, 1)


@pytest.mark.parametrize("name", ["log.txt", "log.jsonl"])
def test_a_log_goes_on_behind_a_line_that_is_too_long(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(querylog, "_LONGEST", 50)
    path = tmp_path / name
    path.write_text('"a"\n"' + "b" * 205 + '"\n"c"\n', "utf-8")
    columns = querylog.Columns()
    with querylog.QueryLog(path, log_format=None, columns=columns) as log:
        found = list(log)
    assert [type(one).__name__ for one in found] == ["Record", "BadLine", "Record"]
    assert [one.line for one in found] == [1, 2, 3]
