"""Commands for operators: health, activity, compaction."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from memora._show import duration, fault_line, one_line
from memora._uris import is_on_disk, without_password
from memora.cache import Memora
from memora.cli.common import (
    AsJson,
    Db,
    ModelName,
    OptionalDb,
    TableName,
    config_of,
    open_to_look,
    readable,
)
from memora.concurrency.workers import Workers
from memora.embedders import load_embedder
from memora.errors import ConfigError, DeadlineError, MemoraError, StoreError
from memora.selection import Selection
from memora.stores import local_path, open_for, open_stored
from memora.stores.disk._inspect import sizes
from memora.stores.disk._membership import living_members
from memora.stores.disk.store import LanceStore

if TYPE_CHECKING:
    from rich.console import RenderableType

    from memora.config import CacheConfig
    from memora.protocols import Store

EXIT_UNHEALTHY = 1
_SHOWN = 10  # rows of the table of most used entries
_QUERY = 60  # maximum characters of a query


def health(
    *,
    db: OptionalDb = None,
    table: TableName = None,
    model: ModelName = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live/--ready",
            help="Check only that a process can start, or that model and store work.",
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds until the check fails.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Check that model and store open and work. Exit code 0 if healthy, 1 if not."""
    config = config_of(db, table, model)
    if is_on_disk(config.db_uri):
        local_path(config.db_uri)  # raises for a wrong setting, which is no fault of the store
    try:
        started = partial(_report, "process", None, 0.0)
        probe = started if live else partial(_probed, config, timeout)
        report = Workers(1, "memora-probe").run(probe, timeout)
        hung = False
    except DeadlineError:
        report = _report("process", DeadlineError(f"no answer within {timeout:g} s"), timeout)
        hung = True
    if as_json:
        typer.echo(json.dumps({"kind": "live" if live else "ready", **report}))
    else:
        _print_health(report)
    if hung:  # exit without closing a cache that hangs, as the caller's timeout has passed
        sys.stdout.flush()
        os._exit(EXIT_UNHEALTHY)
    if report["status"] != "healthy":
        raise typer.Exit(EXIT_UNHEALTHY)


def top(
    *,
    db: Db,
    interval: Annotated[
        float,
        typer.Option("--interval", "-n", min=0.2, max=3600, help="Seconds between refreshes."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit.")] = False,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Watch a store on disk: entries, bytes, uses, processes; --json prints a line per refresh."""
    config = config_of(db, table)
    store, embedder = open_to_look(config)
    title = f"{without_password(config.db_uri)}  {config.table_name}  {embedder.identity}"
    try:
        look = _look(store, config, None)
        if once or as_json or not sys.stdout.isatty():
            _show_frame(look, title, as_json=as_json)
            while not once:
                time.sleep(interval)
                look = _look(store, config, look)
                _show_frame(look, title, as_json=as_json)
            return
        with Live(_frame(look, title), screen=True, auto_refresh=False) as screen:
            while True:
                time.sleep(interval)
                look = _look(store, config, look)
                screen.update(_frame(look, title), refresh=True)
    except KeyboardInterrupt:
        pass  # the normal end
    finally:
        store.close()


def compact(*, db: Db, table: TableName = None, as_json: AsJson = False) -> None:
    """Write the log of a store into its table and compact the table now."""
    config = config_of(db, table)
    path = local_path(config.db_uri)
    store, _ = open_stored(config)
    with closing(store):
        before = sum(sizes(path, config.table_name))
        if not isinstance(store, LanceStore) or not store.compact():
            raise StoreError(
                f"another process maintains the table {config.table_name!r} in {str(path)!r}, and "
                "compacts it when that is due; nothing was done. To compact it now, close the "
                "caches that have it open"
            )
    after = sum(sizes(path, config.table_name))
    if as_json:
        typer.echo(json.dumps({"bytes_before": before, "bytes_after": after}))
    else:
        typer.echo(f"compacted: {_bytes(before)} before, {_bytes(after)} now")


def _probed(config: CacheConfig, timeout: float) -> dict[str, Any]:
    """Open and check the configured model and store, as a new process of the application would."""
    started = time.perf_counter()
    try:
        embedder = load_embedder(config.model_name, use_onnx=config.use_onnx)
    except (MemoraError, OSError) as fault:  # also a ConfigError: the model may be missing
        return _report("embedding", fault, time.perf_counter() - started)
    started = time.perf_counter()
    try:
        # A probe evicts nothing, creates nothing, takes over no maintenance, builds no graph.
        probing = config.model_copy(
            update={"max_entries": None, "max_bytes": None, "hot_index": "off"}
        )
        store, embedder = open_for(probing, embedder=embedder, create=False, keep=False)
    except ConfigError:
        raise
    except (MemoraError, OSError) as fault:
        return _report("database", fault, time.perf_counter() - started)
    with Memora(config, embedder=embedder, store=store) as cache:
        return cache.health_check(timeout=timeout / 2)  # the first half is for opening


def _report(name: str, fault: Exception | None, took: float) -> dict[str, Any]:
    """Return a health report with one check; `took` is in seconds."""
    error = None if fault is None else fault_line(fault)
    check = {"ok": fault is None, "error": error, "duration_ms": round(took * 1000, 3)}
    return {
        "status": "healthy" if fault is None else "unhealthy",
        "checks": {name: check},
        "timestamp": int(time.time() * 1000),
    }


def _print_health(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(title=report["status"], title_justify="left", show_header=False)
    for name, check in report["checks"].items():
        message = check.get("error") or check.get("details") or ""
        mark = "[green]ok[/]" if check["ok"] else "[red]bad[/]"
        table.add_row(mark, name, f"{check['duration_ms']:.1f} ms", escape(one_line(message, 400)))
    console.print(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The state of a store at one moment."""

    timestamp: float
    entries: int
    expired: int
    """Expired entries that are still stored."""
    contexts: int
    bytes: int
    """Size of the entries in the log."""
    disk_bytes: int
    processes: int
    uses: int
    used_entries: int
    uses_per_second: float | None
    """Rate since the previous refresh."""
    stores_per_second: float | None
    removals_per_second: float | None
    oldest_seconds: float | None
    most_used: list[dict[str, Any]]
    ids: frozenset[str]


def _look(store: Store, config: CacheConfig, last: _Look | None) -> _Look:
    now = time.time()
    infos = store.select(Selection(), now=now)
    ids = frozenset(info.entry.id for info in infos)
    uses = sum(info.uses for info in infos)
    path = local_path(config.db_uri)
    members = living_members(path / f"{config.table_name}.log")
    passed = None if last is None else max(now - last.timestamp, 1e-3)

    def rate(count: int) -> float | None:
        return None if passed is None else round(count / passed, 1)

    oldest = min((one.entry.created_at for one in infos), default=None)
    most = sorted(infos, key=lambda one: -one.uses)[:_SHOWN]
    return _Look(
        timestamp=now,
        entries=len(infos),
        expired=max(store.count() - len(infos), 0),
        contexts=len({one.entry.context.fingerprint for one in infos}),
        bytes=sum(one.bytes for one in infos),
        disk_bytes=sum(sizes(path, config.table_name)),
        processes=max(len(members) - 1, 0),  # without this process
        uses=uses,
        used_entries=sum(1 for one in infos if one.uses),
        # The total drops when a used entry is removed.
        uses_per_second=rate(max(uses - last.uses, 0) if last else 0),
        stores_per_second=rate(len(ids - last.ids) if last else 0),
        removals_per_second=rate(len(last.ids - ids) if last else 0),
        oldest_seconds=None if oldest is None else round(now - oldest, 1),
        most_used=[
            {
                "entry_id": one.entry.id,
                "query": one.entry.query,
                "uses": one.uses,
                "bytes": one.bytes,
                "age_seconds": round(now - one.entry.created_at, 1),
            }
            for one in most
            if one.uses
        ],
        ids=ids,
    )


def _show_frame(look: _Look, title: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(readable({name: one for name, one in asdict(look).items() if name != "ids"}))
    else:
        Console(highlight=False).print(_frame(look, title))
    sys.stdout.flush()


def _frame(look: _Look, title: str) -> RenderableType:
    facts = Table(show_header=False, box=None)
    used = f"{look.used_entries / look.entries:.0%} of entries" if look.entries else ""
    rows = [
        ("entries", f"{look.entries:,}", f"in {look.contexts:,} contexts"),
        ("expired", f"{look.expired:,}", "still held"),
        ("bytes", _bytes(look.bytes), f"{_bytes(look.disk_bytes)} on disk"),
        ("uses", f"{look.uses:,}", used),
        ("uses/s", _rate(look.uses_per_second), "as far as the caches have written them"),
        ("stores/s", _rate(look.stores_per_second), ""),
        ("removals/s", _rate(look.removals_per_second), ""),
        ("oldest", "-" if look.oldest_seconds is None else duration(look.oldest_seconds), ""),
        ("processes", f"{look.processes:,}", "have it open"),
    ]
    for row in rows:
        facts.add_row(*row)
    most = Table("uses", "age", "bytes", "query", title="used most", title_justify="left")
    for one in look.most_used:
        query = escape(one_line(one["query"], _QUERY))
        age, size = duration(one["age_seconds"]), _bytes(one["bytes"])
        most.add_row(f"{one['uses']:,}", age, size, query)
    when = time.strftime("%H:%M:%S", time.localtime(look.timestamp))
    return Group(f"{escape(title)}  {when}", facts, *([most] if look.most_used else []))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - then the next unit
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
