"""The log against a dictionary: whatever order its files are read in, the newest operation wins."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memora.context import canonical_context, exact_key
from memora.model import Content, Entry
from memora.stores._settings import ViewSettings
from memora.stores.disk import _records
from memora.stores.disk._journal import MAGIC
from memora.stores.disk._view import LogView

if TYPE_CHECKING:
    from collections.abc import Iterable

DIMENSION = 4
SETTINGS = ViewSettings(graph="int8", content_bytes=1000, late_seconds=0.0)
CONTEXTS = [canonical_context({"n": n}) for n in range(2)]
# A key is a text in a context: the number of each, by the number of the key.
KEYS = [(f"q{n // 2}", CONTEXTS[n % 2]) for n in range(6)]


class Step(NamedTuple):
    """One operation: of a writer, on a key."""

    kind: str
    key: int
    writer: int


def entry_of(key: int, seq: int) -> tuple[Entry, Content]:
    query, context = KEYS[key]
    entry = Entry(
        id=f"{seq:032x}",
        key=exact_key(query, context),
        query=query,
        context=context,
        created_at=float(seq),
        expires_at=None if seq % 3 else 10_000.0,
    )
    return entry, Content(f"{key} {seq}".encode(), f'{{"seq":{seq}}}')


def vector_of(seq: int) -> np.ndarray[tuple[int], np.dtype[np.float32]] | None:
    if seq % 5 == 0:
        return None
    vector = np.random.default_rng(seq).standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


steps = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["put", "put", "put", "delete", "move", "late delete", "late move"]),
        key=st.integers(0, len(KEYS) - 1),
        writer=st.integers(0, 2),
    ),
    max_size=30,
)


def run(steps: Iterable[Step]) -> tuple[dict[int, int], list[list[bytes]]]:
    """Return what a dictionary holds in the end, (key -> seq), and the records a writer wrote."""
    model: dict[int, int] = {}
    older: dict[int, int] = {}  # key -> seq of what it held before
    written: list[list[bytes]] = [[], [], []]
    for seq, step in enumerate(steps, start=1):
        if step.kind.startswith("late"):  # by a process that has not read of the newer one
            if step.key not in older:
                continue
            entry, content = entry_of(step.key, older[step.key])
            written[step.writer].append(
                _records.pack_delete(older[step.key], entry.key)
                if step.kind == "late delete"
                else _records.pack_put(older[step.key], entry, content, vector_of(older[step.key]))
            )
        elif step.kind == "put":
            if step.key in model:
                older[step.key] = model[step.key]
            model[step.key] = seq
            entry, content = entry_of(step.key, seq)
            written[step.writer].append(_records.pack_put(seq, entry, content, vector_of(seq)))
        elif step.key not in model:
            continue
        elif step.kind == "delete":
            entry, _ = entry_of(step.key, model[step.key])
            older[step.key] = model.pop(step.key)
            written[step.writer].append(_records.pack_delete(older[step.key], entry.key))
        else:  # the owner writes the living again
            entry, content = entry_of(step.key, model[step.key])
            written[step.writer].append(
                _records.pack_put(model[step.key], entry, content, vector_of(model[step.key]))
            )
    return model, written


def assert_holds(view: LogView, model: dict[int, int]) -> None:
    keys = {exact_key(*KEYS[key]): seq for key, seq in model.items()}
    assert {view.hot.key(slot): view.hot.seq(slot) for slot in view.hot.slots()} == keys
    assert len(view.hot) == len(model)
    for key, seq in model.items():
        entry, content = entry_of(key, seq)
        slot = view.hot.slot(entry.key)
        assert slot is not None
        assert view.hot.entry(slot) == entry
        segment, offset, length = view.hot.location(slot)
        source = view.segments[segment]
        assert source is not None
        assert _records.content_of(source.read(offset, length), entry.key) == content
    for number, context in enumerate(CONTEXTS):
        found = view.hot.search(
            np.eye(DIMENSION, dtype=np.float32)[0], context=context.fingerprint, k=99, now=0.0
        )
        assert {view.hot.entry(slot).key for slot, _ in found} == {
            exact_key(*KEYS[key]) for key, seq in model.items() if key % 2 == number and seq % 5
        }
    for number in range(len(view.segments)):
        places = [view.hot.location(slot) for slot in view.hot.slots()]
        assert view.hot.live[number] == sum(p.length for p in places if p.segment == number)


@settings(max_examples=150)
@given(steps=steps, data=st.data())
def test_any_order_of_reading_ends_in_the_same_entries(
    steps: list[Step], data: st.DataObject
) -> None:
    """Each file is read from its beginning; which is read next, and how far, is anyone's guess."""
    model, written = run(steps)
    with tempfile.TemporaryDirectory() as folder:
        view = LogView(Path(folder), DIMENSION, SETTINGS)
        files = [Path(folder) / f"{n:016x}-1-{n:04x}-000000.log" for n in range(3)]
        waiting = [list(records) for records in written]
        for file in files:
            file.write_bytes(MAGIC)
        while any(waiting):
            writer = data.draw(st.sampled_from([n for n in range(3) if waiting[n]]))
            amount = data.draw(st.integers(1, len(waiting[writer])))
            with files[writer].open("ab") as end:
                end.write(b"".join(waiting[writer][:amount]))
            del waiting[writer][:amount]
            view.read()

        assert_holds(view, model)


@settings(max_examples=100)
@given(steps=steps, cut=st.integers(1, 400), data=st.data())
def test_what_is_cut_short_is_read_when_it_is_whole(
    steps: list[Step], cut: int, data: st.DataObject
) -> None:
    model, written = run(steps)
    with tempfile.TemporaryDirectory() as folder:
        view = LogView(Path(folder), DIMENSION, SETTINGS)
        for n in data.draw(st.permutations(range(3))):
            file = Path(folder) / f"{n:016x}-1-{n:04x}-000000.log"
            whole = MAGIC + b"".join(written[n])
            at = 0
            while at < len(whole):
                with file.open("ab") as end:
                    end.write(whole[at : at + cut])
                at += cut
                view.read()

        assert_holds(view, model)


@settings(max_examples=100)
@given(steps=steps, order=st.permutations(range(3)), position=st.integers(0, 2000))
def test_a_flipped_bit_never_makes_an_entry(
    steps: list[Step], order: list[int], position: int
) -> None:
    """What follows in that file is lost; what is held is what somebody stored."""
    _, written = run(steps)
    stored = {
        (key, seq)
        for seq, step in enumerate(steps, start=1)
        for key in [step.key]
        if step.kind == "put"
    }
    with tempfile.TemporaryDirectory() as folder:
        view = LogView(Path(folder), DIMENSION, SETTINGS)
        for n in order:
            whole = bytearray(MAGIC + b"".join(written[n]))
            if n == order[0] and len(whole) > len(MAGIC):
                whole[len(MAGIC) + position % (len(whole) - len(MAGIC))] ^= 1 << position % 8
            (Path(folder) / f"{n:016x}-1-{n:04x}-000000.log").write_bytes(whole)
        view.read()

        for slot in view.hot.slots():
            entry, seq = view.hot.entry(slot), view.hot.seq(slot)
            key = KEYS.index((entry.query, entry.context))
            assert (key, seq) in stored
            assert entry == entry_of(key, seq)[0]
