"""A table on a server: one shard, or several in a cluster, opened, asked, and made anew.

A shard has its own index and its own order, and its keys begin with one hash tag, so they are on
one node. Entries go to shards by key. What was served is noted here, and rides with the next call
to its shard: the server knows it before that call does anything, for no round trip of its own.

All times on a shard are of its node's clock: those that a call says, its floats, are moved here.
"""

from __future__ import annotations

import threading
import uuid
import zlib
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from memora._fork import renew_after_fork
from memora.errors import ModelMismatchError, StoreError, StoreFormatError, StorePathError
from memora.stores.redis._server import GoneError, Server
from memora.stores.redis._time import Ahead
from memora.stores.redis._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memora.protocols import Changes, Clock
    from memora.stores.redis._address import Address

T = TypeVar("T")

FORMAT = "1"
_PAGE = 256  # entries that a call gives another policy
_RIDERS = 256  # uses that ride with a call
_RIGHTS = "the user of db_uri lacks rights that a search needs; docs/deploy.md lists them"
_NO_SEARCH = (
    "has no vector search: use Redis 8 (its query engine, or vector sets), Redis Stack, or Valkey "
    "with the valkey-search module"
)


class Untold(NamedTuple):
    """Uses of an entry within a second, which wait to be told.

    The first may still move a sliding end where the last no longer would. Those between say nothing
    more, if a use moves the end by a second at least.
    """

    times: int
    first: float
    last: float

    def after(self, earlier: Untold | None) -> Untold:
        """Return both together."""
        if earlier is None:
            return self
        return Untold(
            earlier.times + self.times,
            min(earlier.first, self.first),
            max(earlier.last, self.last),
        )


_Waiting: TypeAlias = "dict[tuple[bytes, float], Untold]"  # by key and second


class Shards:
    """All shards of a table.

    Args:
        address: Where the server is.
        table_name: The table.
        model: Identity of the embedder; None for whatever made the table.
        dimension: Length of its vectors; the same.
        policy: Name of the policy by which entries leave, from now on; None for that of the table.
        create: Whether a missing table is made.
        clock: The callers'; None where it is the server's.

    Raises:
        StoreError: As `memora.stores.redis.RedisStore`.
    """

    def __init__(  # noqa: PLR0913 - what makes a table
        self,
        address: Address,
        table_name: str,
        *,
        model: str | None,
        dimension: int | None,
        policy: str | None,
        create: bool,
        clock: Clock | None,
    ) -> None:
        self._address, self._table, self._clock = address, table_name, clock
        self.model, self.dimension, self.policy = model, dimension, policy
        self.engine = ""
        self._prefixes: list[str] = []
        self._names: list[bytes] = []  # of the table, by shard: see `common.lua`
        self._ahead: list[Ahead] = []
        renew_after_fork(self)
        try:
            self._open(create=create)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._prefixes)

    def renew(self) -> None:
        """Make what belongs to one process: connections, and what waits to be told."""
        self.server = Server(self._address)
        self._watch: Watch | None = None
        self._lock = threading.Lock()  # guards the uses
        self._uses: list[_Waiting] = [{} for _ in self._prefixes]

    def of(self, key: bytes) -> int:
        """Return the shard of a key."""
        return zlib.crc32(key) % len(self._prefixes)

    def ahead(self, shard: int) -> float:
        """Return how many seconds a shard's clock is ahead of the callers'.

        Raises:
            StoreError: It had to be asked, and did not answer.
        """
        if self._clock is None:
            return 0.0
        return self._ahead[shard].seconds(partial(self._ask_time, shard))

    def run(self, name: str, shard: int, *args: Any) -> Any:
        """Run a script on a shard; once more where the table had gone, and was made anew."""
        ahead = self.ahead(shard)
        with self._riders([shard]) as riders:

            def once() -> Any:
                prefix, table = self._prefixes[shard], self._names[shard]
                return self.server.run(name, prefix, table, *_moved(ahead, *riders[shard], *args))

            return self._again([shard], once)

    def run_all(self, name: str, *args: Any) -> list[Any]:
        """Run a script on all shards, as one; return their answers in order, all of them."""
        shards = range(len(self._prefixes))
        ahead = [self.ahead(shard) for shard in shards]
        with self._riders(shards) as riders:

            def once() -> list[Any]:
                calls = [
                    (self._prefixes[i], self._names[i], *_moved(ahead[i], *riders[i], *args))
                    for i in shards
                ]
                return self.server.run_all(name, calls)

            return self._again(shards, once)

    def note(self, key: bytes, now: float, times: int) -> int:
        """Take down that an entry was served; return how many such notes wait."""
        with self._lock:
            waiting, which = self._uses[self.of(key)], (key, now // 1)
            # The last: the order is told, too.
            waiting[which] = Untold(times, now, now).after(waiting.pop(which, None))
            return len(waiting)

    def tell(self) -> None:
        """Tell the server what was served."""
        for shard in range(len(self._prefixes)):
            while self._uses[shard]:
                self.run("nothing", shard)

    def changes(self) -> Changes | None:
        """Return which entries have changed since the last call; None where all may have."""
        if self._watch is None:
            self._watch = Watch(self.server, self._prefixes)
        return self._watch.changes()

    def close(self) -> None:
        """Release the connections."""
        if self._watch is not None:
            self._watch.close()
        self.server.close()

    def open_shard(self, shard: int, *, create: bool = True, shards: int = 0) -> int:
        """Make a shard and its index where they are not there; check what is.

        Returns how many shards the table has.
        """
        faults: list[str] = []
        for engine in [self.engine] if self.engine else ["ft", "vset"]:
            *found, fault = self.server.run(
                "open",
                self._prefixes[shard],
                *(uuid.uuid4().hex, FORMAT, self.model or "", self.dimension or 0, engine),
                *(self.policy or "fifo", shards or len(self._prefixes), int(create)),
            )
            faults += [fault.decode()] if fault else []
            if found[0] is not None:
                return self._take(shard, found, fault.decode())
            if not fault:
                raise StorePathError(f"there is no table {self._table!r} on {self._address}")
        raise StoreError(f"{self._address} {_why(faults)} ({'; '.join(faults)})")

    def _open(self, *, create: bool) -> None:
        self._prefixes, self._names = [f"memora:{{{self._table}:0}}:"], [b""]
        count = self._address.shards or self.server.masters()
        count = self.open_shard(0, create=create, shards=count)
        there = self._policy_there
        self._prefixes = [f"memora:{{{self._table}:{shard}}}:" for shard in range(count)]
        self._names += [b""] * (count - 1)
        self._uses = [{} for _ in self._prefixes]
        for shard in range(1, count):
            self.open_shard(shard)
        self._ahead = [] if self._clock is None else [Ahead(self._clock) for _ in self._prefixes]
        for shard in range(count):
            self.ahead(shard)
        self.policy = self.policy or there
        for shard in range(count if self.policy != there else 0):
            after = b"0"
            while after:
                after = self.run("rank", shard, self.policy, after, _PAGE)

    def _ask_time(self, shard: int) -> float:
        seconds, microseconds = self.server.run("time", self._prefixes[shard])
        return int(seconds) + int(microseconds) / 1e6

    def _take(self, shard: int, found: list[bytes], fault: str) -> int:
        """Check what the server says of a shard, and keep it."""
        name, made_as, model, dimension, engine, policy, shards = found
        where = f"table {self._table!r} on {self._address}"
        if made_as.decode() != FORMAT:
            raise StoreFormatError(
                f"{where} has format {made_as.decode()}, this Memora knows {FORMAT}; set another "
                "table_name"
            )
        made_by = (model.decode(), int(dimension))
        if self.model is None or self.dimension is None:
            self.model, self.dimension = made_by
        if made_by != (self.model, self.dimension):
            raise ModelMismatchError(
                f"{where} holds vectors of {made_by[0]!r} with {made_by[1]} dimensions, and the "
                f"model is {self.model!r} with {self.dimension}; set another table_name"
            )
        if fault:
            why = _RIGHTS if _is_of_rights(fault) else "needs what the server does not offer now"
            raise StoreError(f"{where}: {why} ({fault})")
        self._names[shard], self.engine, self._policy_there = name, engine.decode(), policy.decode()
        return int(shards)

    def _again(self, shards: Iterable[int], run: Callable[[], T]) -> T:
        try:
            return run()
        except GoneError:  # the server was emptied, or came back empty
            for shard in shards:
                self.open_shard(shard)
            return run()

    @contextmanager
    def _riders(self, shards: Iterable[int]) -> Iterator[dict[int, list[Any]]]:
        """Take the uses that ride with a call to shards; back where that failed."""
        taken: dict[int, _Waiting] = {}
        with self._lock:
            for shard in shards:
                waiting = self._uses[shard]
                taken[shard] = {which: waiting[which] for which in islice(waiting, _RIDERS)}
                for which in taken[shard]:
                    del waiting[which]
        try:
            yield {
                shard: [
                    len(uses),
                    *(x for (key, _), one in uses.items() for x in (key.hex(), *one)),
                ]
                for shard, uses in taken.items()
            }
        except BaseException:
            with self._lock:
                for shard, uses in taken.items():
                    waiting = self._uses[shard]
                    later = {
                        which: one.after(uses.pop(which, None)) for which, one in waiting.items()
                    }
                    self._uses[shard] = uses | later
            raise


def _why(faults: list[str]) -> str:
    """Return why no engine makes an index."""
    if any(map(_is_of_rights, faults)):
        return f"refuses: {_RIGHTS}"
    if all("unknown" in fault.lower() for fault in faults):
        return _NO_SEARCH
    return "refuses what a search needs"


def _is_of_rights(fault: str) -> bool:
    # As Redis 7, Valkey and later say it in a script, and as Redis 6.
    return "no permission" in fault or "can't run this command" in fault


def _moved(ahead: float, *args: Any) -> Iterator[Any]:
    return (repr(one + ahead) if isinstance(one, float) else one for one in args)
