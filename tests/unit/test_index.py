"""The flat index against a dictionary and plain arithmetic."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memora.index import FlatIndex

operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove"]),
        st.integers(0, 9),
        st.sampled_from([None, 5.0, 10.0]),
    ),
    max_size=40,
)


@given(operations, st.integers(1, 12), st.sampled_from([0.0, 5.0, 9.0]))
def test_search_is_what_a_sorted_dictionary_would_answer(
    steps: list[tuple[str, int, float | None]], k: int, now: float
) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((10, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[0]
    index, model = FlatIndex(4), dict[str, tuple[int, float | None]]()
    for action, number, expires_at in steps:
        entry_id = str(number)
        if action == "remove" or entry_id in model:
            index.remove(entry_id)
            model.pop(entry_id, None)
        else:
            index.add(entry_id, vectors[number], expires_at=expires_at)
            model[entry_id] = (number, expires_at)

    found = index.search(query, k=k, now=now)

    alive = {
        entry_id: float(vectors[number] @ query)
        for entry_id, (number, expires_at) in model.items()
        if expires_at is None or expires_at > now
    }
    expected = sorted(alive.items(), key=lambda item: -item[1])[:k]
    assert len(index) == len(model)
    assert [entry_id for entry_id, _ in found] == [entry_id for entry_id, _ in expected]
    np.testing.assert_allclose(
        [score for _, score in found], [score for _, score in expected], atol=1e-6
    )


def test_more_rows_than_one_block_are_all_searched() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((2500, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = FlatIndex(8)
    for i, vector in enumerate(vectors):
        index.add(str(i), vector, expires_at=None)

    for i in (0, 1023, 1024, 2048, 2499):
        assert index.search(vectors[i], k=1, now=0.0)[0][0] == str(i)
