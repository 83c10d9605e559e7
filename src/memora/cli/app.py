"""The commands. Each parses its options, calls the library and prints the result."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import ExitStack, closing, nullcontext
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

import memora
from memora._uris import is_on_disk, without_password
from memora.cache import Memora
from memora.cli import INTERRUPTED, doctor, entries, moving, operating
from memora.cli.calibrate import calibrate
from memora.cli.common import (
    AsJson,
    ContextOption,
    Db,
    MaxEntries,
    ModelName,
    TableName,
    Threshold,
    config_of,
    encodable,
    note,
    open_existing,
    open_to_look,
    parse_json,
    parse_object,
    progress_bar,
    readable,
)
from memora.cli.querylog import Columns, Format, QueryLog
from memora.cli.render import print_comparison, print_report
from memora.cli.replay import Replay
from memora.config import CacheConfig, chosen
from memora.errors import ArgumentError
from memora.stores import local_path
from memora.stores.disk._inspect import sizes

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

EXIT_MISS = 1

Limit = Annotated[int | None, typer.Option(min=1, help="Stop after this many queries.")]
CallSeconds = Annotated[
    float,
    typer.Option(
        min=0, max=86_400, help="Seconds per call without the cache, to estimate the time saved."
    ),
]
Examples = Annotated[int, typer.Option(min=0, help="Number of examples of each kind.")]


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"memora-cache {memora.__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """A semantic cache for LLM applications: replay query logs, inspect and maintain a store."""


@app.command("replay")
def replay_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, a JSON array, CSV, or text with one query per line; may be .gz; "
            "- reads standard input."
        ),
    ],
    *,
    log_format: Annotated[
        str | None, typer.Option("--format", help="jsonl, csv or text; default: by suffix.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="Column of the query.")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(help="Column of the context; repeat it to combine several columns."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--class", help="Column of the class: queries of a class have the same answer."
        ),
    ] = None,
    answer: Annotated[str | None, typer.Option(help="Column of the answer.")] = None,
    db: Annotated[
        str, typer.Option(help="The store: memory:// or a directory, created if missing.")
    ] = "memory://",
    table: TableName = None,
    model: ModelName = None,
    threshold: Threshold = None,
    max_entries: MaxEntries = None,
    limit: Limit = None,
    call_seconds: CallSeconds = 1.0,
    examples: Examples = 4,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTING=VALUE",
            help="Compare with a second cache that has this setting; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a query log through a cache; report its savings and its wrong answers."""
    if log_format not in {None, "jsonl", "csv", "text"}:
        raise ArgumentError(f"--format {log_format!r}: expected jsonl, csv or text")
    columns = Columns(query=query, context=tuple(context or ()), label=label, answer=answer)
    config = config_of(
        db, table, model, similarity_threshold=threshold, max_entries=max_entries or "none"
    )
    chosen: Format | None = log_format  # type: ignore[assignment] # checked above
    configs = [config] if compare is None else [config, _changed(config, compare)]
    with QueryLog(file, log_format=chosen, columns=columns) as log, ExitStack() as caches:
        opened = [caches.enter_context(Memora(config)) for config in configs]
        done = _replay(log, *opened, limit=limit, examples=examples)
    if compare is None:
        _finish(done, config, title=log.name, call_seconds=call_seconds, as_json=as_json)
        return
    changed = [change.partition("=")[0] for change in compare]
    settings = [{name: getattr(config, name) for name in changed} for config in configs]
    if as_json:
        sides = [
            {
                "settings": chosen,
                "report": report.as_dict(call_seconds=call_seconds),
                "served_by_this_only": only.as_dict(),
            }
            for chosen, report, only in zip(settings, done.reports, done.only, strict=True)
        ]
        typer.echo(json.dumps({"compared": sides}, ensure_ascii=False))
    else:
        names = [" ".join(f"{name}={value}" for name, value in side.items()) for side in settings]
        print_comparison(Console(), done, names=names, title=log.name, call_seconds=call_seconds)
    _end(done)


@app.command()
def demo(
    *,
    threshold: Threshold = None,
    limit: Limit = None,
    call_seconds: CallSeconds = 1.0,
    examples: Examples = 4,
    as_json: AsJson = False,
) -> None:
    """Replay the packaged, labelled log: a day of analytics, support and coding agents."""
    config = config_of("memory://", similarity_threshold=threshold, max_entries="none")
    with (
        as_file(files("memora") / "demo" / "queries.jsonl") as path,
        QueryLog(path, log_format=None, columns=Columns()) as log,
        Memora(config) as cache,
    ):
        done = _replay(log, cache, limit=limit, examples=examples)
    _finish(done, config, title="A day of agents", call_seconds=call_seconds, as_json=as_json)


@app.command()
def lookup(
    query: str,
    *,
    db: Db,
    context: ContextOption = "{}",
    table: TableName = None,
    model: ModelName = None,
    threshold: Threshold = None,
    as_json: AsJson = False,
) -> None:
    """Look up a query in a store. Exit code 0 for a hit, 1 for a miss."""
    config = config_of(db, table, model, similarity_threshold=threshold)
    with open_existing(config) as cache:
        found = cache.lookup(query, parse_object("--context", context))
    if as_json:
        result = orjson.Fragment(readable(found.result))
        typer.echo(readable(dataclasses.replace(found, result=result)))
    elif found:
        typer.echo(
            encodable(found.result) if isinstance(found.result, str) else readable(found.result)
        )
        note(f"hit: {found.explanation}; stored as {found.matched_query!r}")
    else:
        nearest = f"; nearest: {found.nearest.query!r}" if found.nearest else ""
        note(f"miss: {found.explanation}{nearest}")
    if found.reason == "error":
        raise ArgumentError(found.explanation)
    if found.is_miss:
        raise typer.Exit(EXIT_MISS)


@app.command()
def explain(
    query: str,
    *,
    db: Db,
    context: ContextOption = "{}",
    table: TableName = None,
    model: ModelName = None,
    threshold: Threshold = None,
    as_json: AsJson = False,
) -> None:
    """Explain a lookup in a store: its candidates, and matches in other contexts."""
    config = config_of(db, table, model, similarity_threshold=threshold)
    with open_existing(config) as cache:
        explanation = cache.explain(query, parse_object("--context", context), elsewhere=True)
    if explanation.reason == "error":
        raise ArgumentError(explanation.explanation)
    if as_json:
        shown = {
            one.name: getattr(explanation, one.name) for one in dataclasses.fields(explanation)
        }
        shown["elsewhere"] = [one.shown() for one in explanation.elsewhere]
        typer.echo(readable(shown))
    else:
        typer.echo(str(explanation))


@app.command()
def store(
    query: str,
    result: Annotated[str, typer.Argument(help="The result; - reads standard input.")],
    *,
    db: Db,
    context: ContextOption = "{}",
    ttl: Annotated[
        str | None, typer.Option(help="Lifetime: seconds, or a duration such as 10m or 1h30m.")
    ] = None,
    parse: Annotated[
        bool, typer.Option("--parse-json", help="Parse the result as JSON and store the value.")
    ] = False,
    table: TableName = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Store a result in a store, which is created if missing."""
    text = sys.stdin.read() if result == "-" else result
    value: Any = parse_json("RESULT", text) if parse else text
    with Memora(config_of(db, table, model)) as cache:
        entry_id = cache.store(query, parse_object("--context", context), value, ttl=ttl)
    if entry_id is None:
        raise ArgumentError("nothing was stored; see the log above for the reason")
    typer.echo(json.dumps({"entry_id": entry_id}) if as_json else entry_id)


@app.command()
def stats(*, db: Db, table: TableName = None, as_json: AsJson = False) -> None:
    """Show the size and the model of a store."""
    config = config_of(db, table)
    store, embedder = open_to_look(config)
    with closing(store):
        entries = store.count()
    shown: dict[str, Any] = {
        "storage": without_password(config.db_uri),
        "table": config.table_name,
        "total_entries": entries,
        "model": embedder.identity,
        "embedding_dim": embedder.dimension,
    }
    if is_on_disk(config.db_uri):
        shown["disk_bytes"] = sum(sizes(local_path(config.db_uri), config.table_name))
    if as_json:
        typer.echo(json.dumps(shown))
        return
    for name, value in shown.items():
        typer.echo(f"{name:14} {value:,}" if isinstance(value, int) else f"{name:14} {value}")


def _changed(config: CacheConfig, changes: list[str]) -> CacheConfig:
    """Return settings with changes, each SETTING=VALUE with a value as in the environment.

    Both caches are in memory: in one directory, each would serve what the other stored.
    """
    if config.db_uri != "memory://":
        raise ArgumentError("--compare replays into memory: leave --db out")
    settings = {}
    for change in changes:
        name, given, value = change.partition("=")
        if not given:
            raise ArgumentError(f"--compare {change!r}: expected SETTING=VALUE, such as judge=off")
        if name in {"db_uri", "table_name"}:
            raise ArgumentError(f"--compare {change!r}: both caches are in memory")
        settings[name] = value
    return CacheConfig(**{**chosen(config), **settings})


def _replay(log: QueryLog, *caches: Memora, limit: int | None, examples: int) -> Replay:
    done = Replay(*caches, examples=examples)
    console = Console(stderr=True)
    progress = progress_bar(console)
    with progress if console.is_terminal else nullcontext():
        task = progress.add_task("replaying", total=limit or log.size)
        try:
            for report in done.run(log):
                share = report.hits / report.queries if report.queries else 0.0
                progress.update(
                    task,
                    completed=report.queries if limit else log.position,
                    description=f"{report.queries:,} queries, {share:.0%} hits",
                )
                if limit and report.queries >= limit:
                    break
        except KeyboardInterrupt:  # report the queries replayed so far
            done.interrupted = True
    report = done.reports[0]
    if done.interrupted:
        note(f"replaying: {report.queries:,} queries done, which the report is of")
    elif not report.queries:
        raise ArgumentError(f"no query found; {report.first_problem or 'the file is empty'}")
    return done


def _finish(
    done: Replay, config: CacheConfig, *, title: str, call_seconds: float, as_json: bool
) -> None:
    (report,) = done.reports
    # With JSON logs, a log collector expects JSON to the last line.
    if as_json or config.json_logs:
        typer.echo(json.dumps(report.as_dict(call_seconds=call_seconds), ensure_ascii=False))
    else:
        print_report(Console(), report, title=title, call_seconds=call_seconds)
    _end(done)


def _end(done: Replay) -> None:
    if done.interrupted:
        raise typer.Exit(INTERRUPTED)


app.add_typer(entries.app, name="entries")
app.command()(entries.invalidate)
app.command()(entries.cleanup)
app.command()(entries.clear)
app.command()(moving.export)
app.command("import")(moving.import_command)
app.command()(moving.warm)
app.command()(moving.reembed)
app.command()(calibrate)
app.command()(operating.health)
app.command()(operating.top)
app.command()(doctor.doctor)
app.command()(operating.compact)
