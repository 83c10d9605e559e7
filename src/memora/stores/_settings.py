"""Settings of a store on disk or in a bucket."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from memora.eviction import EvictionPolicy
    from memora.index import GraphType
    from memora.protocols import Clock

Durability: TypeAlias = Literal["memory", "process", "power"]


class ViewSettings(NamedTuple):
    """Settings of a `LogView`."""

    graph: GraphType | None
    """Type of the vectors in graphs; None drops vectors from RAM once they are in the table."""
    content_bytes: int
    """Size of the cache of contents."""
    late_seconds: float
    """Longest delay until a use by another process is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings:
    """Settings of one table and its log; see also `CacheConfig`."""

    table_name: str
    """One table is one cache."""
    model: str
    """Identity of the embedder."""
    dimension: int
    """Length of its vectors."""
    create: bool = True
    """Whether a missing table is created; False opens only an existing one."""
    durability: Durability = "process"
    """What `put` waits for: nothing ("memory"), the operating system ("process": the entry survives
    `kill -9`), or the disk ("power"). In a bucket, all but "memory" wait until it has the entry."""
    hot_index: GraphType | Literal["off"] = "int8"
    """Type of the vectors in the graphs of large contexts; "off", on disk only, keeps vectors there
    and searches the table."""
    hot_payload_bytes: int = 64 * 1024 * 1024
    """Size of the cache of payloads in RAM."""
    max_staleness_seconds: float = 1.0
    """Longest delay until other processes' operations are seen."""
    max_entries: int | None = None
    """Limit until `maintain` sets another, also for entries of other processes; None for none."""
    max_bytes: int | None = None
    """The same, in bytes of the log."""
    policy: EvictionPolicy | None = None
    """Eviction policy; None: first in, first out."""
    flush_interval_seconds: float = 5.0
    """How often uses are logged; `kill -9` may lose those since the last time."""
    clock: Clock = time.time
    """The clock by which entries expire."""
    index_at: int | None = None
    """Number of rows at which a table on disk gets its own index; None for never."""
    keep: bool = True
    """Whether this process may become the owner. A process that only reads, for hours, should leave
    that to processes whose limits and policy apply."""

    @property
    def view(self) -> ViewSettings:
        """The part for the view."""
        return ViewSettings(
            None if self.hot_index == "off" else self.hot_index,
            self.hot_payload_bytes,
            self.max_staleness_seconds + self.flush_interval_seconds,
        )
