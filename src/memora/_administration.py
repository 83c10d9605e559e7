"""The methods of a cache that list, withdraw and move entries, and its periodic cleanup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from memora import lifecycle, transfer
from memora._arguments import tags_of
from memora._criteria import Criteria
from memora._durations import seconds
from memora._faults import contained
from memora._parts import OpenCache, in_tasks
from memora.concurrency.reentry import alone
from memora.scheduler import CleanupScheduler

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta
    from os import PathLike

    from memora.model import EntryInfo
    from memora.transfer import ImportReport, Item, Progress

_CLEANUP_SECONDS = 300.0  # default interval of the scheduler


class Administration(OpenCache):
    """Methods on the entries of a cache, other than lookups and stores."""

    _scheduler: CleanupScheduler | None = None
    _scheduling = False  # whether its thread should be there
    _told_of_no_criterion = False

    @overload
    def invalidate(
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
        dry_run: Literal[False] = False,
    ) -> int: ...

    @overload
    def invalidate(
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
        dry_run: Literal[True],
    ) -> list[EntryInfo]: ...

    def invalidate(  # noqa: PLR0913 - the criteria
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
        dry_run: bool = False,
    ) -> int | list[EntryInfo]:
        """Delete the entries that meet all criteria; without criteria, none, with a warning.

        Args:
            query: The exact text; with `similarity_threshold`, also texts of the same meaning.
            context: The exact context; {} is the empty one.
            older_than_seconds: Minimum age of the entries: seconds, a timedelta, or "10m".
            context_contains: Keys and values that the context must have; nested mappings may have
                further keys too.
            tags: The entry has at least one of these tags.
            entry_id: An id returned by `store` or a lookup.
            similarity_threshold: In [0, 1]. Entries match if their similarity to the query, or
                their raw cosine, reaches it: deleting one too many is safer than keeping one.
            dry_run: Delete nothing, and return the entries that would be deleted.

        Returns:
            The number of deleted entries. With `dry_run`, the entries themselves: the most similar
            first if there is a similarity, else the oldest first.

        Raises:
            QueryError: The query is not a text, or is blank.
            ContextError: A context holds a value without canonical form.
            ArgumentError: Another criterion is out of range, or the model cannot read the query.
            StoreError: The store failed; some of the entries may still be there.
            EmbedderError: The model failed; nothing was deleted.
        """
        self._check_open()
        criteria = Criteria(
            query,
            context,
            older_than_seconds,
            context_contains,
            tags,
            entry_id,
            similarity_threshold,
        )
        if criteria.is_empty:
            if not self._told_of_no_criterion:  # once, as the caller may be in a loop
                self._told_of_no_criterion = True
                self._log.warning(
                    "invalidate_without_criteria",
                    hint="nothing was deleted: name a criterion, or call clear() to delete all",
                )
            return [] if dry_run else 0
        found = criteria.find(self._ports)
        if dry_run:
            return found
        deleted = lifecycle.withdraw(self._ports, found)
        self._metrics.count_left("invalidated", deleted)
        self._log.info("cache_invalidate", entries=deleted)
        return deleted

    def entries(  # noqa: PLR0913 - the criteria
        self,
        query: str | None = None,
        context: Mapping[str, Any] | None = None,
        older_than_seconds: float | str | timedelta | None = None,
        *,
        context_contains: Mapping[str, Any] | None = None,
        tags: str | Iterable[str] | None = None,
        entry_id: str | None = None,
        similarity_threshold: float | None = None,
    ) -> list[EntryInfo]:
        """Return the entries that meet all criteria and have not ended; without criteria, all.

        Args:
            query: As for `invalidate`.
            context: As for `invalidate`.
            older_than_seconds: As for `invalidate`.
            context_contains: As for `invalidate`.
            tags: As for `invalidate`.
            entry_id: As for `invalidate`.
            similarity_threshold: As for `invalidate`.

        Returns:
            The entries, the most similar first if there is a similarity, else the oldest first.

        Raises:
            MemoraError: As by `invalidate`.
        """
        self._check_open()
        criteria = Criteria(
            query,
            context,
            older_than_seconds,
            context_contains,
            tags,
            entry_id,
            similarity_threshold,
        )
        return criteria.find(self._ports, now=self._ports.clock())

    def invalidate_tags(self, *tags: str) -> None:
        """Stop serving all entries stored so far with one of these tags, at once.

        Use it if a source has changed. It takes O(1) per tag, however many entries there are; they
        are removed in the background. To get their number, use `invalidate`.

        Raises:
            ArgumentError: A tag is not a text, or is blank.
            StoreError: The store failed; some of the entries may still be served.
        """
        self._check_open()
        for tag in tags_of(tags):
            with contained:
                alone(self._ports.store.invalidate_tag)(tag)
            self._metrics.count_outdated()
            self._log.info("cache_outdate")

    def clear(self) -> int:
        """Delete all entries; return how many.

        Raises:
            StoreError: The store failed; some entries may still be there.
        """
        self._check_open()
        deleted, swept = lifecycle.clear(self._ports)
        self._metrics.count_left("cleared", deleted)
        self._metrics.count_left("expired", swept)
        self._log.info("cache_clear", entries=deleted + swept)
        return deleted + swept

    def cleanup_expired(self) -> int:
        """Remove the expired and the outdated entries; return how many.

        They are never served, so this only frees space.

        Raises:
            StoreError: The store failed; some entries may still be there.
        """
        self._check_open()
        removed = lifecycle.sweep(self._ports)
        self._metrics.count_left("expired", removed)
        self._log.debug("cache_cleanup", entries=removed)
        return removed

    def export_entries(
        self,
        path: str | PathLike[str],
        *,
        skip_errors: bool = False,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Write all entries that have not ended to a file, which appears once it is complete.

        Args:
            path: A `.parquet` file has complete entries, for `import_entries`; a `.jsonl` file is
                for people: without vectors, and with contexts and results as plain JSON.
            skip_errors: Skip, count and report entries that cannot be written, instead of raising.
            progress: Called with the number of entries done and the total.

        Returns:
            How many entries were written.

        Raises:
            ArgumentError: The path has another suffix.
            TransferError: The file cannot be written, or an entry cannot be written as JSON.
            MemoraError: The store failed, or a result is damaged.
        """
        self._check_open()
        moved = transfer.export_entries(
            self._ports, path, skip_errors=skip_errors, progress=progress
        )
        self._log.info("cache_export", entries=moved.written)
        return moved

    def import_entries(
        self,
        path: str | PathLike[str],
        *,
        skip_errors: bool = False,
        reembed: bool = False,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Add the entries of an export to this cache, with their original age.

        The whole file is checked first. Entries that this cache already has, or has a newer version
        of for the same query and context, are skipped, so an interrupted import can be repeated.
        Expired entries are skipped too. The limits of this cache apply.

        Args:
            path: A `.parquet` file from `export_entries`, or a `.jsonl` file as for `warm`.
            skip_errors: Skip, count and report broken rows, instead of raising.
            reembed: Embed the queries of a `.parquet` file again if it is of another model.
            progress: Called with the number of rows done and the total.

        Returns:
            How many entries were written, were here already, had expired, or are broken.

        Raises:
            ArgumentError: The path has another suffix.
            TransferError: The file cannot be read, lacks a column, or has a broken row; the message
                has the row's number, column and value, and what is expected. Nothing was imported.
            ModelMismatchError: The file's vectors are of another model. Nothing was imported.
            MemoraError: The store or the model failed during the import; repeat it.
        """
        self._check_open()
        moved = transfer.import_entries(
            self._ports,
            self._config,
            path,
            skip_errors=skip_errors,
            reembed=reembed,
            progress=progress,
        )
        self._metrics.count_left("evicted", moved.evicted)
        self._log.info("cache_import", entries=moved.written, evicted=moved.evicted)
        return moved

    def warm(
        self, items: Iterable[Item] | str | PathLike[str], *, progress: Progress | None = None
    ) -> int:
        """Store known answers, embedded in batches; return how many were stored.

        A file or a sequence is checked completely before the first item is stored. Items of an
        iterator are stored up to the first broken one.

        Args:
            items: Mappings with `query` and `result`, and optionally `context`, `metadata`, `ttl`,
                `stale_ttl`, `sliding`, `tags` and `cost`, all as for `store`; tuples of query,
                context and result; or the path of a `.jsonl` file with one such mapping per line.
            progress: Called with the number of items done, and the total or None if unknown.

        Raises:
            ArgumentError: `items` is not an iterable, or is a path with another suffix.
            TransferError: The file cannot be read, or an item is broken; the message has its
                number, and how many items were stored.
            MemoraError: The store or the model failed; items stored before that stay.
        """
        self._check_open()
        moved = transfer.warm(self._ports, self._config, items, progress=progress)
        self._metrics.count_left("evicted", moved.evicted)
        self._log.info("cache_warm", entries=moved.written, evicted=moved.evicted)
        return moved.written

    def start_scheduler(
        self,
        interval_seconds: float | str | timedelta | None = None,
        initial_delay_seconds: float = 60.0,
    ) -> None:
        """Call `cleanup_expired` periodically in the background; a second start only warns.

        The thread does not keep the process alive, continues if a cleanup fails, starts again in a
        forked child, and ends with `close`.

        Args:
            interval_seconds: Time between two cleanups; by default the setting
                `cleanup_interval_seconds`, or five minutes.
            initial_delay_seconds: Time before the first cleanup.

        Raises:
            ArgumentError: A number is out of range.
        """
        self._check_open()
        if interval_seconds is None:
            interval_seconds = self._config.cleanup_interval_seconds or _CLEANUP_SECONDS
        scheduler = self._scheduler
        if scheduler is not None and scheduler.stats()["running"]:
            self._log.warning("scheduler_already_running")
            return
        self._scheduler = CleanupScheduler(
            self._clean,
            interval_seconds=seconds("interval_seconds", interval_seconds),
            initial_delay_seconds=initial_delay_seconds,
            clock=self._ports.clock,
            report=self._report_cleanup,
        )
        self._scheduling = self._scheduler.start()

    def stop_scheduler(self, timeout: float = 5.0) -> None:
        """Stop the background cleanup; wait up to `timeout` seconds for one that is running."""
        self._scheduling = False
        if self._scheduler is not None and not self._scheduler.stop(timeout):
            self._log.warning("scheduler_still_running", timeout=timeout)

    def get_scheduler_stats(self) -> dict[str, Any] | None:
        """Return running, interval_seconds, total_runs, total_deleted, last_run_time and errors.

        Also `last_error`, the type of the last error. None if the scheduler was never started.
        """
        return None if self._scheduler is None else self._scheduler.stats()

    def _clean(self) -> int:
        return 0 if self._closed else self.cleanup_expired()

    def _report_cleanup(self, fault: Exception) -> None:
        self._core.report("cleanup", fault)

    ainvalidate = in_tasks(invalidate)
    aentries = in_tasks(entries)
    ainvalidate_tags = in_tasks(invalidate_tags)
    aclear = in_tasks(clear)
    acleanup_expired = in_tasks(cleanup_expired)
    aexport_entries = in_tasks(export_entries)
    aimport_entries = in_tasks(import_entries)
    awarm = in_tasks(warm)
    # The former names of `invalidate_tags`.
    outdate = invalidate_tags
    aoutdate = ainvalidate_tags
