"""Shared parts of the commands: options, opening a store, JSON input and output, progress."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from memora._show import one_line
from memora._uris import is_in_ram
from memora.cache import Memora
from memora.config import CacheConfig, chosen
from memora.embedders import load_embedder
from memora.errors import ArgumentError
from memora.stores import open_for, open_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memora.protocols import Embedder, Store

Db = Annotated[str, typer.Option(help="The store: a directory.", envvar="MEMORA_DB_URI")]
OptionalDb = Annotated[
    str | None, typer.Option("--db", help="The store: a directory; default: MEMORA_DB_URI.")
]
TableName = Annotated[str | None, typer.Option("--table", help="The table in the store.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Embedding model: the packaged one, a directory or a hub name."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Minimum probability that a hit is right, 0 to 1.", show_default="0.85"),
]
ContextOption = Annotated[str, typer.Option("--context", help="The context, as a JSON object.")]
MaxEntries = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of entries.", show_default="unlimited")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def config_of(
    db: str | None = None, table: str | None = None, model: str | None = None, **others: Any
) -> CacheConfig:
    """Return the environment's settings, overridden by command-line options that are not None."""
    options = {"db_uri": db, "table_name": table, "model_name": model, **others}
    given = {name: value for name, value in options.items() if value is not None}
    settings = chosen(CacheConfig.load())
    # A user of JSON logs collects them, so keep the setting's log level.
    quiet = {} if settings.get("json_logs") else {"log_level": "WARNING"}
    # Shadow mode is for the application's lookups, which its log records, not for an operator's.
    return CacheConfig(**{**quiet, **settings, **given, "mode": "serve"})


def kept(config: CacheConfig) -> CacheConfig:
    """Return settings without the default entry limit, so that a command never evicts."""
    if "max_entries" in config.model_fields_set:
        return config
    return config.model_copy(update={"max_entries": None})


def open_existing(config: CacheConfig) -> Memora:
    """Open an existing store; a mistyped path is an error and creates nothing."""
    if is_in_ram(config.db_uri):
        raise ArgumentError("--db memory:// is empty at each start; name a directory")
    embedder = load_embedder(config.model_name, use_onnx=config.use_onnx)
    # An existing store may exceed the limits of this process's settings; do not evict.
    limitless = config.model_copy(update={"max_entries": None, "max_bytes": None})
    found, embedder = open_for(limitless, embedder=embedder, create=False)
    return Memora(config, embedder=embedder, store=found)


def open_without_model(config: CacheConfig) -> Memora:
    """Open an existing store of any model, for a command that embeds nothing."""
    store, embedder = open_stored(config)
    return Memora(config, embedder=embedder, store=store)


def open_to_look(config: CacheConfig) -> tuple[Store, Embedder]:
    """Open an existing store to observe it, without its vectors or effects on other processes.

    An observer must not take over the maintenance of the table from processes with its real limits.
    """
    return open_stored(config.model_copy(update={"hot_index": "off"}), keep=False)


@contextmanager
def progress_of(description: str, *, left: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on stderr if it is a terminal; report progress on interruption.

    Args:
        description: The activity, such as "importing".
        left: State after an interruption, and how to continue.
    """
    console = Console(stderr=True)
    reached: tuple[int, int | None] = (0, None)
    bar = progress_bar(console)
    task = bar.add_task(description, total=None)

    def step(done: int, total: int | None) -> None:
        nonlocal reached
        reached = done, total
        bar.update(task, completed=done, total=total)

    try:
        with bar if console.is_terminal else nullcontext():
            yield step
    except KeyboardInterrupt:
        done, total = reached
        of = "" if total is None else f" of {total:,}"
        note(f"{description}: {done:,}{of} done; {left}")
        raise


def progress_bar(console: Console) -> Progress:
    """Return a bar that disappears when done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def parse_json(name: str, text: str) -> Any:
    """Return the value of a JSON text; raise ArgumentError if it is invalid."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentError(f"{name} must be JSON: {error}; got {text!r}") from error


def parse_object(name: str, text: str) -> dict[str, Any]:
    """Return the value of a JSON object; raise ArgumentError if it is invalid."""
    value = parse_json(name, text)
    if not isinstance(value, dict):
        raise ArgumentError(f'{name} must be a JSON object such as \'{{"agent": "sql"}}\'')
    return value


def readable(value: Any) -> str:
    """Return a value as JSON; types that JSON lacks become text."""
    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    try:
        return orjson.dumps(value, default=str, option=option).decode()
    except orjson.JSONEncodeError:  # keys without a JSON form, or integers beyond 64 bits
        return json.dumps(encodable(str(value)), ensure_ascii=False)


def encodable(text: str) -> str:
    """Return text that can be printed: lone surrogates are replaced."""
    return text.encode("utf-8", "replace").decode()


def note(text: str) -> None:
    """Print a line on stderr."""
    Console(stderr=True, highlight=False).print(escape(one_line(text, 400)), style="dim")
