"""A table on a server: one shard, or several in a cluster.

A shard has its own index and order. All its keys have one hash tag, so they are on one node.
Entries are assigned to shards by key. Uses are collected here and sent with the next call to their
shard, which applies them before its own work, so that they need no round trip.

All times on a shard are by its node's clock: every float argument of a call is a time, and is
converted here.
"""

from __future__ import annotations

import threading
import uuid
import zlib
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from memora.concurrency.fork import register_for_reinit
from memora.errors import ModelMismatchError, StoreError, StoreFormatError, StorePathError
from memora.stores.redis._server import GoneError, Server
from memora.stores.redis._time import ClockOffset
from memora.stores.redis._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memora.protocols import Changes, Clock
    from memora.stores.redis._address import Address

T = TypeVar("T")

FORMAT = "1"
_PAGE = 256  # entries per call when the policy changes
_PIGGYBACKED = 256  # uses sent with one call
_RIGHTS = "the user of db_uri lacks rights that a search needs; docs/deploy.md lists them"
_NO_SEARCH = (
    "has no vector search: use Redis 8 (its query engine, or vector sets), Redis Stack, or Valkey "
    "with the valkey-search module"
)


class PendingUses(NamedTuple):
    """Unsent uses of an entry within one second.

    The first use may still extend a sliding TTL when the last one, after the end, does not. The
    uses in between add nothing if a use extends the end by at least a second.
    """

    times: int
    first: float
    last: float

    def after(self, earlier: PendingUses | None) -> PendingUses:
        """Return the sum of these uses and earlier ones."""
        if earlier is None:
            return self
        return PendingUses(
            earlier.times + self.times,
            min(earlier.first, self.first),
            max(earlier.last, self.last),
        )


_Waiting: TypeAlias = "dict[tuple[bytes, float], PendingUses]"  # by key and second


class Shards:
    """All shards of a table.

    Args:
        address: Address of the server.
        table_name: Name of the table.
        model: Identity of the embedder; None for that of the existing table.
        dimension: Length of its vectors; None for that of the existing table.
        policy: Name of the eviction policy from now on; None for that of the table.
        create: Whether a missing table is created.
        clock: The callers' clock; None if it is the server's.

    Raises:
        StoreError: As `memora.stores.redis.RedisStore`.
    """

    def __init__(  # noqa: PLR0913 - the parts of a table
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
        self._names: list[bytes] = []  # random name of the table in each shard: see `common.lua`
        self._ahead: list[ClockOffset] = []
        register_for_reinit(self)
        try:
            self._open(create=create)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._prefixes)

    def reinit_after_fork(self) -> None:
        """Renew what belongs to one process: connections and unsent uses."""
        self.server = Server(self._address)
        self._watch: Watch | None = None
        self._lock = threading.Lock()  # guards the uses
        self._uses: list[_Waiting] = [{} for _ in self._prefixes]

    def of(self, key: bytes) -> int:
        """Return the number of a key's shard."""
        return zlib.crc32(key) % len(self._prefixes)

    def ahead(self, shard: int) -> float:
        """Return how many seconds a shard's clock is ahead of the callers'.

        Raises:
            StoreError: The server had to be asked for its time, and did not answer.
        """
        if self._clock is None:
            return 0.0
        return self._ahead[shard].seconds(partial(self._ask_time, shard))

    def run(self, name: str, shard: int, *args: Any) -> Any:
        """Run a script on a shard; run it again if the table was missing and has been recreated."""
        ahead = self.ahead(shard)
        with self._piggybacked_uses([shard]) as piggybacked:

            def once() -> Any:
                prefix, table = self._prefixes[shard], self._names[shard]
                return self.server.run(
                    name, prefix, table, *_moved(ahead, *piggybacked[shard], *args)
                )

            return self._again([shard], once)

    def run_all(self, name: str, *args: Any) -> list[Any]:
        """Run a script on all shards at once; return all answers in order."""
        shards = range(len(self._prefixes))
        ahead = [self.ahead(shard) for shard in shards]
        with self._piggybacked_uses(shards) as piggybacked:

            def once() -> list[Any]:
                calls = [
                    (self._prefixes[i], self._names[i], *_moved(ahead[i], *piggybacked[i], *args))
                    for i in shards
                ]
                return self.server.run_all(name, calls)

            return self._again(shards, once)

    def note(self, key: bytes, now: float, times: int) -> int:
        """Collect a use of an entry; return the number of unsent uses."""
        with self._lock:
            waiting, which = self._uses[self.of(key)], (key, now // 1)
            # Moved to the end, as the server learns the order, too.
            waiting[which] = PendingUses(times, now, now).after(waiting.pop(which, None))
            return len(waiting)

    def send_uses(self) -> None:
        """Send the collected uses to the server."""
        for shard in range(len(self._prefixes)):
            while self._uses[shard]:
                self.run("nothing", shard)

    def changes(self) -> Changes | None:
        """Return the entries changed since the last call; None if any may have changed."""
        if self._watch is None:
            self._watch = Watch(self.server, self._prefixes)
        return self._watch.changes()

    def close(self) -> None:
        """Close the connections."""
        if self._watch is not None:
            self._watch.close()
        self.server.close()

    def open_shard(self, shard: int, *, create: bool = True, shards: int = 0) -> int:
        """Create a shard and its index if they are missing; check existing ones.

        Returns the number of shards of the table.
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
        self._ahead = (
            [] if self._clock is None else [ClockOffset(self._clock) for _ in self._prefixes]
        )
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
        """Check the server's data about a shard, and keep it."""
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
        except GoneError:  # the server was emptied, or restarted empty
            for shard in shards:
                self.open_shard(shard)
            return run()

    @contextmanager
    def _piggybacked_uses(self, shards: Iterable[int]) -> Iterator[dict[int, list[Any]]]:
        """Yield the collected uses for a call to shards; they are put back if the call fails."""
        taken: dict[int, _Waiting] = {}
        with self._lock:
            for shard in shards:
                waiting = self._uses[shard]
                taken[shard] = {which: waiting[which] for which in islice(waiting, _PIGGYBACKED)}
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
    """Return why no engine can create an index."""
    if any(map(_is_of_rights, faults)):
        return f"refuses: {_RIGHTS}"
    if all("unknown" in fault.lower() for fault in faults):
        return _NO_SEARCH
    return "refuses what a search needs"


def _is_of_rights(fault: str) -> bool:
    # In the words of Redis 7 and Valkey for scripts, and in those of Redis 6.
    return "no permission" in fault or "can't run this command" in fault


def _moved(ahead: float, *args: Any) -> Iterator[Any]:
    return (repr(one + ahead) if isinstance(one, float) else one for one in args)
