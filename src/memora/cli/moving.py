"""Commands that move entries: files, known answers, re-embedding."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memora import transfer
from memora._uris import is_in_ram
from memora.cache import Memora
from memora.cli.common import (
    AsJson,
    Db,
    MaxEntries,
    ModelName,
    TableName,
    config_of,
    kept,
    note,
    open_without_model,
    progress_of,
)
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from memora.transfer import ImportReport

SkipErrors = Annotated[bool, typer.Option("--skip-errors", help="Skip and count broken entries.")]


def export(
    file: Annotated[Path, typer.Argument(help="A .parquet, or a readable .jsonl.")],
    *,
    db: Db,
    skip_errors: SkipErrors = False,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Write all entries of a store to a file, replacing it."""
    with (
        open_without_model(config_of(db, table)) as cache,
        progress_of("exporting", left="nothing was written") as progress,
    ):
        moved = cache.export_entries(file, skip_errors=skip_errors, progress=progress)
    _report("exported", moved, as_json=as_json)


def import_command(
    file: Annotated[Path, typer.Argument(help="A .parquet from `export`, or a .jsonl.")],
    *,
    db: Db,
    skip_errors: SkipErrors = False,
    reembed: Annotated[
        bool, typer.Option("--reembed", help="Recompute the vectors: the file is of another model.")
    ] = False,
    max_entries: MaxEntries = None,
    table: TableName = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Import the entries of a file into a store; after an interruption, run it again."""
    left = "what was imported stays: run it again for the rest"
    with (
        _open_target(db, table, model, max_entries) as cache,
        progress_of("importing", left=left) as progress,
    ):
        moved = cache.import_entries(
            file, skip_errors=skip_errors, reembed=reembed, progress=progress
        )
    _report("imported", moved, as_json=as_json)


def warm(
    file: Annotated[Path, typer.Argument(help='JSON lines: {"query": ..., "result": ...}.')],
    *,
    db: Db,
    max_entries: MaxEntries = None,
    table: TableName = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Store known answers in a store, which is created if missing."""
    with (
        _open_target(db, table, model, max_entries) as cache,
        progress_of("warming", left="what was stored stays: run it again for the rest") as progress,
    ):
        stored = cache.warm(file, progress=progress)
    typer.echo(json.dumps({"stored": stored}) if as_json else f"stored {stored:,}")


def reembed(
    *,
    db: Db,
    model: Annotated[
        str, typer.Option("--model", help="The new embedding model: packaged, directory, hub name.")
    ],
    to_table: Annotated[
        str | None, typer.Option(help="The table to copy to; default: the same name.")
    ] = None,
    to_db: Annotated[
        str | None, typer.Option(help="The store to copy to; default: the same store.")
    ] = None,
    max_entries: MaxEntries = None,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Copy all entries of a table to another, for another model; run it again to resume."""
    source = config_of(db, table)
    if to_table is None and to_db is None:
        raise ArgumentError("name where to copy to: --to-table, or --to-db, or both")
    target = config_of(to_db or db, to_table or source.table_name, model, max_entries=max_entries)
    with progress_of("embedding", left="what was copied stays: run it again to go on") as progress:
        moved = transfer.reembed(source, kept(target), progress=progress)
    _report("copied", moved, as_json=as_json)


def _open_target(db: str, table: str | None, model: str | None, max_entries: int | None) -> Memora:
    if is_in_ram(db):
        raise ArgumentError("--db memory:// ends with this process; name a directory")
    return Memora(kept(config_of(db, table, model, max_entries=max_entries)))


def _report(verb: str, moved: ImportReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(moved)))
        return
    parts = {
        "were there already": moved.present,
        "had expired": moved.expired,
        "were skipped": moved.broken,
        "left, as the limits are reached": moved.evicted,
    }
    rest = [f"{count:,} {what}" for what, count in parts.items() if count]
    typer.echo("; ".join([f"{verb} {moved.written:,}", *rest]))
    for problem in moved.problems:
        note(problem)
