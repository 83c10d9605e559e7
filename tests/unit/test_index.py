"""The index against a dictionary and plain arithmetic, and the graph against the scan."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora import index as module
from memora.index import GraphType, VectorIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memora.protocols import Vector

SLOTS = 24  # no more than a search compares exactly, so that it must be right to the last row
DTYPES: tuple[GraphType, ...] = get_args(GraphType)

steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "remove", "settle"]), st.integers(0, SLOTS - 1)
    ),
    max_size=120,
)


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clustered(n: int, *, seed: int = 7) -> NDArray[np.float32]:
    """Return vectors around n / 20 centres, as questions lie around topics."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((n // 20, 64)))
    return unit(centres[rng.integers(len(centres), size=n)] + rng.normal(0, 0.08, (n, 64)))


def reworded(vectors: NDArray[np.float32], *, seed: int = 8) -> NDArray[np.float32]:
    return unit(vectors + np.random.default_rng(seed).normal(0, 0.03, vectors.shape))


def filled(vectors: NDArray[np.float32], dtype: GraphType = "int8") -> VectorIndex:
    index = VectorIndex(vectors.shape[1], dtype=dtype)
    for slot, vector in enumerate(vectors):
        index.add(slot, vector)
    settle(index)
    return index


def settle(index: VectorIndex) -> None:
    while not index.all_indexed:
        index.index_pending(64)


def recall(index: VectorIndex, held: dict[int, Vector], queries: NDArray[np.float32]) -> float:
    """Return the share of queries whose nearest row is found."""
    slots, rows = list(held), np.array(list(held.values()))
    best = [slots[i] for i in np.argmax(queries @ rows.T, axis=1)]
    found = [index.search(query, k=1, alive=None)[0][0] for query in queries]
    return float(np.mean(np.equal(best, found)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a graph of few rows."""
    monkeypatch.setattr(module, "_GRAPH_AT", 100)
    monkeypatch.setattr(module, "_TAIL", 10)


@given(
    steps=steps,
    k=st.integers(1, 12),
    modulus=st.sampled_from([None, 2, 3]),
    dtype=st.sampled_from(DTYPES),
    on_disk=st.booleans(),
)
def test_search_is_what_a_sorted_dictionary_would_answer(
    *,
    steps: list[tuple[str, int]],
    k: int,
    modulus: int | None,
    dtype: GraphType,
    on_disk: bool,
) -> None:
    vectors = unit(np.random.default_rng(3).standard_normal((SLOTS, 8)))
    query = unit(vectors[0] + vectors[1])
    index = VectorIndex(8, exact=vectors.__getitem__ if on_disk else None, dtype=dtype)
    model: dict[int, float] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_GRAPH_AT", 6)
        patch.setattr(module, "_TAIL", 2)
        for action, slot in steps:
            if action == "settle":
                index.index_pending(1 + slot % 5)
            elif action == "remove" or slot in model:
                index.remove(slot)
                model.pop(slot, None)
            else:
                index.add(slot, vectors[slot])
                model[slot] = float(vectors[slot] @ query)

        found = index.search(
            query, k=k, alive=None if modulus is None else lambda slots: slots % modulus == 0
        )

        alive = {slot: score for slot, score in model.items() if not modulus or slot % modulus == 0}
        expected = sorted(alive.items(), key=lambda pair: -pair[1])[:k]
        assert len(index) == len(model)
        assert [slot for slot, _ in found] == [slot for slot, _ in expected]
        np.testing.assert_allclose(
            [score for _, score in found], [score for _, score in expected], atol=1e-6
        )
        assert dict(index.search(query, k=SLOTS, alive=None)) == pytest.approx(model, abs=1e-6)


def test_more_rows_than_one_block_are_all_searched() -> None:
    vectors = clustered(2500)
    index = filled(vectors)

    for slot in (0, 1023, 1024, 2048, 2499):
        assert index.search(vectors[slot], k=1, alive=None)[0][0] == slot


def test_a_small_context_takes_little_more_than_its_vectors() -> None:
    index = VectorIndex(64)
    for slot, vector in enumerate(clustered(1000)):
        index.add(slot, vector)
    assert len(index._slots) <= 1000 * 9 // 8

    for slot in range(995):
        index.remove(slot)

    assert len(index) == 5
    assert len(index._slots) < 25
    assert index._graph is None


@pytest.mark.usefixtures("small")
def test_rows_are_found_while_they_move() -> None:
    vectors = clustered(400)
    index = VectorIndex(64)
    for slot, vector in enumerate(vectors):
        index.add(slot, vector)

    while not index.all_indexed:
        index.index_pending(37)
        assert recall(index, dict(enumerate(vectors)), vectors[::7]) == 1.0

    assert len(index) == 400
    assert index._count <= 10


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_graph_finds_what_the_scan_finds(dtype: GraphType) -> None:
    vectors = clustered(3000)
    index = filled(vectors, dtype)
    queries = reworded(vectors[::6])

    assert index._graph is not None
    assert recall(index, dict(enumerate(vectors)), queries) >= 0.99
    slot, score = index.search(queries[3], k=1, alive=None)[0]
    assert score == pytest.approx(float(vectors[slot] @ queries[3]), abs=1e-6)


@pytest.mark.usefixtures("small")
def test_dead_rows_take_no_place_in_the_graph() -> None:
    vectors = clustered(1000)
    index = filled(vectors)
    query = vectors[432]
    nearest = np.argsort(-(vectors @ query))

    for dead in (1, 20, 500, 997):
        mask = np.ones(1000, np.bool_)
        mask[nearest[:dead]] = False
        found = index.search(query, k=3, alive=mask.__getitem__)
        assert all(mask[slot] for slot, _ in found)
        expected = vectors[nearest[dead : dead + 3]] @ query
        np.testing.assert_allclose([score for _, score in found], expected, atol=0.01)
    assert index.search(query, k=3, alive=lambda slots: slots < 0) == []


@pytest.mark.usefixtures("small")
def test_a_damaged_record_hides_no_other() -> None:
    vectors = clustered(300)

    def exact(slot: int) -> Vector:
        if slot == 77:
            raise OSError
        return vectors[slot]

    index = VectorIndex(64, exact=exact)
    for slot, vector in enumerate(vectors):
        index.add(slot, vector)
    settle(index)
    expected = [slot for slot in np.argsort(-(vectors @ vectors[77])).tolist() if slot != 77]

    found = index.search(vectors[77], k=3, alive=None)

    assert [slot for slot, _ in found] == expected[:3]
    assert index.search(vectors[77], k=1, alive=lambda slots: slots == 77) == []
    assert index._graph is not None
    assert not index._graph._kept


@pytest.mark.usefixtures("small")
def test_turnover_costs_neither_memory_nor_recall() -> None:
    size = 1000
    vectors = clustered(8 * size)
    index = filled(vectors[:size])
    assert index._graph is not None
    capacity = index._graph._index.capacity

    for slot in range(size, len(vectors)):
        index.remove(slot - size)
        index.add(slot, vectors[slot])
        if slot % 30 == 0:
            settle(index)

    held = {slot: vectors[slot] for slot in range(len(vectors) - size, len(vectors))}
    assert len(index) == size
    assert index._graph._index.capacity == capacity  # the places of removed rows were taken
    assert len(index._graph._kept) + index._count == size
    assert recall(index, held, reworded(vectors[-size::3])) >= 0.99


@pytest.mark.usefixtures("small")
def test_a_graph_of_mostly_removed_rows_is_replaced() -> None:
    vectors = clustered(1000)
    index = filled(vectors)
    first = index._graph

    for slot in range(600):
        index.remove(slot)

    assert not index.all_indexed
    held = {slot: vectors[slot] for slot in range(600, 1000)}
    while not index.all_indexed:
        assert recall(index, held, vectors[600::9]) == 1.0
        index.index_pending(50)
    assert len(index) == 400
    assert index._graph is not first
    assert index._worn is None


@pytest.mark.usefixtures("small")
def test_a_context_that_has_become_small_has_no_graph() -> None:
    vectors = clustered(300)
    index = filled(vectors)

    for slot in range(250):
        index.remove(slot)
    settle(index)

    assert len(index) == 50
    assert index._graph is None
    assert index.search(vectors[299], k=1, alive=None)[0][0] == 299
    for slot in range(250, 300):
        index.remove(slot)
    assert len(index) == 0
    assert index.search(vectors[299], k=1, alive=None) == []


def test_a_graph_may_be_built_before_the_model_is_loaded() -> None:
    # usearch loaded ahead of ONNX Runtime ends the process at the import of the latter.
    code = (
        "from memora.index import _Graph\n_Graph(8, None, 'int8')\n"
        "import onnxruntime\nprint('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "alive\n")
