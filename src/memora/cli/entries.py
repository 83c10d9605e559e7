"""Commands on the entries of a store: list, search, show, delete, invalidate, clean up."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memora._show import duration, one_line, rounded
from memora.cli.common import (
    AsJson,
    Db,
    ModelName,
    TableName,
    config_of,
    encodable,
    note,
    open_existing,
    open_without_model,
    parse_object,
    readable,
)
from memora.codec import Codec
from memora.errors import ArgumentError, CorruptEntryError, SerializationError
from memora.selection import Selection
from memora.stores import open_stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.model import Entry, EntryInfo
    from memora.protocols import Store

app = typer.Typer(no_args_is_help=True, help="List, search, show and delete entries of a store.")

_SHOWN_ID = 12  # characters of an id in a table, enough to be unique
_LEAST_ID = 4
_ID = 32
_PREVIEW = 2000  # maximum characters of a shown result

Context = Annotated[
    str | None,
    typer.Option("--context", help="Only entries with exactly this context, a JSON object."),
]
ContextContains = Annotated[
    str | None, typer.Option(help="Only entries whose context has these values, a JSON object.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", help="Only entries with this tag; repeat it to match any of several."),
]
OlderThan = Annotated[
    str | None, typer.Option(help="Only entries older than this, such as 10m, 12h or 30d.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the entries without deleting them.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without confirmation.")]
EntryId = Annotated[str, typer.Argument(metavar="ID", help="The id, or a unique prefix of it.")]


@app.command("list")
def list_command(
    *,
    db: Db,
    query: Annotated[str | None, typer.Option(help="Only entries with exactly this query.")] = None,
    context: Context = None,
    context_contains: ContextContains = None,
    tag: Tags = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries to show.")] = 100,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """List live entries, oldest first."""
    criteria = _criteria(query, context, context_contains, tag, older_than)
    with open_without_model(config_of(db, table)) as cache:
        _print(cache.entries(**criteria), limit=limit, as_json=as_json)


@app.command()
def search(
    query: str,
    *,
    db: Db,
    similarity_threshold: Annotated[
        float, typer.Option("--similarity-threshold", "--threshold", help="Minimum similarity.")
    ] = 0.5,
    context: Context = None,
    context_contains: ContextContains = None,
    tag: Tags = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries to show.")] = 20,
    table: TableName = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Find entries by the meaning of their queries, in all contexts, most similar first."""
    criteria = _criteria(query, context, context_contains, tag, older_than)
    with open_existing(config_of(db, table, model)) as cache:
        found = cache.entries(**criteria, similarity_threshold=similarity_threshold)
        _print(found, limit=limit, as_json=as_json)


@app.command()
def show(entry_id: EntryId, *, db: Db, table: TableName = None, as_json: AsJson = False) -> None:
    """Show one entry with its result."""
    store, _ = open_stored(config_of(db, table))
    with closing(store):
        now = time.time()
        (entry,) = _named(store, [entry_id], now)
        found = store.fetch(entry.key, now=now)
        infos = store.select(Selection(entry_id=entry.id), now=now)
    if found is None or not infos:
        raise ArgumentError(f"the entry {entry_id!r} has just left the store")
    attributes = _fields(infos[0]) | {"metadata": json.loads(found[1].metadata)}
    try:
        result = Codec().decode(found[1].payload)
    except (CorruptEntryError, SerializationError) as error:
        text = f"cannot be shown: {error}"
        attributes |= {"result": None, "result_error": text}
    else:
        text = encodable(result) if isinstance(result, str) else readable(result)
        attributes["result"] = orjson.Fragment(readable(result))
    if as_json:
        typer.echo(readable(attributes))
        return
    for name, value in _described(attributes, now):
        typer.echo(f"{name:10} {one_line(value, 400)}")
    preview = text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}… ({len(text):,} characters)"
    typer.echo(f"{'result':10} {_printable(preview)}")


@app.command()
def delete(
    entry_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="The ids, or unique prefixes of them.")
    ],
    *,
    db: Db,
    yes: Yes = False,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Delete entries by id."""
    store, _ = open_stored(config_of(db, table))
    with closing(store):
        named = _named(store, entry_ids, time.time())
        if not yes:
            _confirm(len(named))
        _say_deleted(store.discard(named), as_json=as_json)


def invalidate(
    query: Annotated[
        str | None, typer.Argument(help="The exact query; with a threshold, also similar ones.")
    ] = None,
    *,
    db: Db,
    similarity_threshold: Annotated[
        float | None,
        typer.Option(help="Also match queries with this similarity to QUERY or more, 0 to 1."),
    ] = None,
    context: Context = None,
    context_contains: ContextContains = None,
    tag: Tags = None,
    older_than: OlderThan = None,
    entry_id: Annotated[
        str | None, typer.Option("--id", help="Only the entry with this id.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    table: TableName = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Delete the entries that meet all criteria."""
    criteria = _criteria(query, context, context_contains, tag, older_than)
    criteria |= {"entry_id": entry_id, "similarity_threshold": similarity_threshold}
    if all(one is None for one in criteria.values()):
        raise ArgumentError("name what to delete: a query, --context, --tag, --older-than, ...")
    config = config_of(db, table, model)
    # Only a similarity threshold needs the model.
    opened = open_without_model if similarity_threshold is None else open_existing
    with opened(config) as cache:
        if _may_delete(
            lambda: cache.invalidate(**criteria, dry_run=True),
            dry_run=dry_run,
            yes=yes,
            as_json=as_json,
        ):
            _say_deleted(cache.invalidate(**criteria), as_json=as_json)


def clear(
    *,
    db: Db,
    dry_run: DryRun = False,
    yes: Yes = False,
    table: TableName = None,
    as_json: AsJson = False,
) -> None:
    """Delete all entries of a table; use `invalidate` to delete some."""
    with open_without_model(config_of(db, table)) as cache:
        if _may_delete(cache.entries, dry_run=dry_run, yes=yes, as_json=as_json):
            _say_deleted(cache.clear(), as_json=as_json)


def cleanup(*, db: Db, table: TableName = None, as_json: AsJson = False) -> None:
    """Remove expired and outdated entries from a store."""
    with open_without_model(config_of(db, table)) as cache:
        removed = cache.cleanup_expired()
    typer.echo(json.dumps({"removed": removed}) if as_json else f"removed {_entries(removed)}")


def _criteria(
    query: str | None,
    context: str | None,
    context_contains: str | None,
    tags: list[str] | None,
    older_than: str | None,
) -> dict[str, Any]:
    def parsed(option: str, text: str | None) -> dict[str, Any] | None:
        return None if text is None else parse_object(option, text)

    return {
        "query": query,
        "context": parsed("--context", context),
        "context_contains": parsed("--context-contains", context_contains),
        "tags": tags or None,
        "older_than_seconds": older_than,
    }


def _named(store: Store, given: list[str], now: float) -> list[Entry]:
    """Return the entries with these ids or unique id prefixes; raise ArgumentError."""
    entries = [info.entry for info in store.select(Selection(), now=now)]
    named: dict[str, Entry] = {}
    for text in given:
        start = text.strip().lower()
        if not _LEAST_ID <= len(start) <= _ID:
            raise ArgumentError(f"{text!r} is no id: expected {_LEAST_ID} to {_ID} digits")
        found = [entry for entry in entries if entry.id.startswith(start)]
        if len(found) != 1:
            how = "no entry has" if not found else f"{len(found)} entries have"
            raise ArgumentError(f"{how} an id that begins with {text!r}")
        named[found[0].id] = found[0]
    return list(named.values())


def _may_delete(
    find: Callable[[], list[EntryInfo]], *, dry_run: bool, yes: bool, as_json: bool
) -> bool:
    """Print the entries for a dry run, or ask for confirmation; return whether to delete them."""
    if dry_run or not yes:
        found = find()
        if dry_run:
            _print(found, limit=len(found) or 1, as_json=as_json)
        elif found:
            _confirm(len(found))
    return not dry_run


def _confirm(count: int) -> None:
    if not _is_terminal():
        raise ArgumentError(f"{_entries(count)} would be deleted; --yes deletes without asking")
    typer.confirm(f"Delete {_entries(count)}?", abort=True, err=True)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _fields(one: EntryInfo) -> dict[str, Any]:
    return one.shown() | {"context": json.loads(one.context)}


def _say_deleted(entries: int, *, as_json: bool) -> None:
    typer.echo(json.dumps({"deleted": entries}) if as_json else f"deleted {_entries(entries)}")


def _print(found: list[EntryInfo], *, limit: int, as_json: bool) -> None:
    shown = found[:limit]
    if as_json:
        typer.echo(readable({"total": len(found), "entries": [_fields(one) for one in shown]}))
        return
    compared = any(one.similarity is not None for one in shown)
    table = Table()
    for name in ("id", *(["similarity"] if compared else [])):
        table.add_column(name, no_wrap=True)
    for name in ("query", "context", "age", "left"):
        table.add_column(name, overflow="fold")
    table.add_column("uses", justify="right")
    table.add_column("tags", overflow="fold")
    now = time.time()
    for one in shown:
        similarity = [rounded(one.similarity or 0.0)] if compared else []
        texts = [one.entry_id[:_SHOWN_ID], *similarity, one.query, one.context]
        texts += [_age(one.created_at, now), _left(one.expires_at, now), f"{one.uses:,}"]
        table.add_row(*(escape(one_line(text)) for text in [*texts, ", ".join(one.tags)]))
    if shown:
        Console().print(table)
    hidden = len(found) - len(shown)
    note(f"{_entries(len(found))}" + (f"; {hidden:,} are not shown (--limit)" if hidden else ""))


def _described(attributes: dict[str, Any], now: float) -> list[tuple[str, str]]:
    """Return the fields of an entry as text."""
    used = f"{attributes['uses']:,} times"
    if attributes["last_used_at"] is not None:
        used += f", last {_age(attributes['last_used_at'], now)} ago"
    return [
        ("id", attributes["entry_id"]),
        ("query", attributes["query"]),
        ("context", json.dumps(attributes["context"], ensure_ascii=False)),
        ("stored", f"{_age(attributes['created_at'], now)} ago"),
        ("left", _left(attributes["expires_at"], now)),
        ("tags", ", ".join(attributes["tags"]) or "none"),
        ("used", used),
        ("bytes", f"{attributes['bytes']:,}"),
        ("metadata", json.dumps(attributes["metadata"])),
    ]


def _age(moment: float, now: float) -> str:
    return duration(max(now - moment, 0.0))


def _left(expires_at: float | None, now: float) -> str:
    """Return the remaining fresh time of an entry as text."""
    if expires_at is None:
        return "for ever"
    return "stale" if expires_at <= now else duration(expires_at - now)


def _printable(text: str) -> str:
    """Replace characters of multi-line text that could control a terminal."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
