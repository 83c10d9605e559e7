"""`memora doctor`: check settings, versions, model and store, and advise on problems."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memora._show import fault_line, one_line
from memora._uris import is_bucket, is_in_ram, is_on_disk
from memora.cli.common import AsJson, ModelName, OptionalDb, TableName, open_to_look, readable
from memora.cli.outputs import check_writable
from memora.config import PREFIX, CacheConfig, environment, hint, setting, shown
from memora.embedders import ByLanguage, is_packaged, load_embedder, local_model
from memora.errors import (
    ArgumentError,
    ConfigError,
    MemoraError,
    MissingExtraError,
    StoreError,
    StoreFormatError,
    StorePathError,
)
from memora.judge._calibration import calibrated_models
from memora.judge.verifier import packaged_verifier
from memora.stores import REEMBED, local_path
from memora.stores.disk._inspect import Facts, inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memora.protocols import Embedder

EXIT_WRONG = 1
_DISTRIBUTION = "memora-cache"
_DEFAULT = "default"  # source of a value that is not set
_LITTLE_SPACE = 256 * 1024 * 1024  # bytes: enough for some flushes of the table and a compaction
_FEW_FILES = 1024  # open files; a store needs one per segment of the log, and LanceDB's
# On these `flock` and `fsync` may not give what the log needs, or files may not persist.
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "ceph"})
_FLEETING = frozenset({"tmpfs", "ramfs", "overlay"})

State = Literal["ok", "warning", "problem"]
_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]look[/]", "problem": "[red]wrong[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    state: State
    name: str
    details: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, with the source of its value."""

    name: str
    value: Any
    source: str


def doctor(
    *,
    db: OptionalDb = None,
    table: TableName = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, versions, model, store and disk. Exit code 1 if there is a problem."""
    given = {"db_uri": ("--db", db), "table_name": ("--table", table)}
    given["model_name"] = ("--model", model)
    found: list[Finding] = []
    config, settings = _settings(given, found)
    found += _versions()
    embedder = _model(config, found)
    if (
        embedder is not None
        and _is_calibrated(embedder)
        and config.judge == config.verifier == "on"
    ):
        found.append(_verifier())
    facts = _store(config, embedder, found)
    if embedder is not None and facts is not None:
        found.append(_compare(embedder, facts.model, facts.dimension))
    wrong = any(finding.state == "problem" for finding in found)
    if as_json:
        report = {
            "ok": not wrong,
            "findings": [asdict(one) for one in found],
            "settings": [asdict(one) for one in settings],
            "store": None if facts is None else asdict(facts),
        }
        typer.echo(readable(report))
    else:
        _print(found, settings)
    if wrong:
        raise typer.Exit(EXIT_WRONG)


def _settings(
    given: dict[str, tuple[str, str | None]], found: list[Finding]
) -> tuple[CacheConfig, list[Setting]]:
    """Return the valid settings individually; add findings for the others."""
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    texts = {name: (f"{PREFIX}{name.upper()}", text) for name, text in environment().items()}
    texts |= {name: (option, text) for name, (option, text) in given.items() if text is not None}
    for name, (source, text) in texts.items():
        if name not in CacheConfig.model_fields:
            # The value is not shown, as it may be a secret. Only a warning: a cache opens anyway.
            advice = f"remove it{hint(source)}"
            found.append(Finding("warning", source, "no such setting", advice))
            continue
        try:
            values[name] = setting(name, text)
        except ConfigError as error:
            found.append(Finding("problem", source, str(error), "correct it; nothing opens before"))
        else:
            sources[name] = source
    try:
        config = CacheConfig(**values)
    except ConfigError as error:  # each is valid, but they conflict
        found.append(Finding("problem", "settings", str(error), "correct one of them"))
        config, sources = CacheConfig(), {}
    if config.max_entries is None and config.max_bytes is None:
        advice = "set max_bytes, so that the disk and the RAM are not filled"
        found.append(Finding("warning", "limits", "the cache grows without end", advice))
    if config.opentelemetry:
        found += _opentelemetry()
    if config.mode == "shadow" and config.shadow_log is not None:
        found += _shadow_log(Path(config.shadow_log))
    if not any(one.state == "problem" for one in found):
        found.insert(0, Finding("ok", "settings", f"{len(sources)} set, the others as by default"))
    return config, [
        Setting(name, value, sources.get(name, _DEFAULT)) for name, value in shown(config).items()
    ]


def _opentelemetry() -> Iterator[Finding]:
    try:
        import_module("memora.otel")
    except MissingExtraError as error:
        yield Finding("problem", "opentelemetry", str(error), "install it; nothing opens before")


def _shadow_log(path: Path) -> Iterator[Finding]:
    try:
        check_writable([path])
    except ArgumentError as error:
        yield Finding("problem", "shadow_log", str(error), "name a file that can be written")


def _versions() -> Iterator[Finding]:
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("ok", "memora-cache", f"{version(_DISTRIBUTION)}, {system}")
    there = []
    for need in requires(_DISTRIBUTION) or []:
        name, least, extra = _parsed(need)
        try:
            has = version(name)
        except PackageNotFoundError:
            if not extra:
                advice = f"pip install {_DISTRIBUTION}, with what it depends on"
                yield Finding("problem", name, "is not installed", advice)
            continue
        if _numbers(has) < _numbers(least):
            advice = f"pip install --upgrade '{name}>={least}'"
            yield Finding("problem", name, f"{has} is older than {least}", advice)
        there.append(f"{name} {has}")
    yield Finding("ok", "dependencies", ", ".join(sorted(set(there))))
    limit = _files_limit()
    if limit is not None and limit < _FEW_FILES:
        advice = f"raise it to {_FEW_FILES} or more (ulimit -n)"
        yield Finding("warning", "open files", f"at most {limit} at once", advice)


def _model(config: CacheConfig, found: list[Finding]) -> Embedder | None:
    name = config.model_name
    try:
        local = is_packaged(name) or local_model(name) is not None
        embedder = load_embedder(name, use_onnx=config.use_onnx)
        embedder.embed(["health check"])
    except (MemoraError, OSError) as error:
        advice = "check model_name: the packaged model, a directory that is there, or a hub name"
        found.append(Finding("problem", "model", fault_line(error), advice))
        return None
    message = f"{embedder.identity}, {embedder.dimension} dimensions"
    if not local:
        advice = "without network a new process may not start: download it to a directory"
        found.append(Finding("warning", "model", f"{message}, from the hub", advice))
    elif not _is_calibrated(embedder):
        advice = "choose the threshold on your own pairs: see docs/concepts.md, other models"
        found.append(Finding("warning", "model", f"{message}, not calibrated", advice))
    else:
        found.append(Finding("ok", "model", message))
    return embedder


def _is_calibrated(embedder: Embedder) -> bool:
    return embedder.identity.partition(":")[0] in calibrated_models()


def _verifier() -> Finding:
    packaged = packaged_verifier()
    if packaged is None:
        advice = "install a package that has it, or set verifier to off"
        return Finding("warning", "verifier", "not installed: the judge decides alone", advice)
    try:
        packaged.logits([("health check", "health check")])
    except Exception as error:  # noqa: BLE001 - of onnxruntime or tokenizers
        advice = f"reinstall {_DISTRIBUTION}: until then the judge decides alone"
        return Finding("problem", "verifier", fault_line(error), advice)
    return Finding("ok", "verifier", "reads the pairs that leave the judge in doubt")


def _off_disk(config: CacheConfig, embedder: Embedder | None) -> Iterator[Finding]:
    """Report the location of the entries, the state of a server or bucket, and the model."""
    if is_in_ram(config.db_uri):
        message = "in RAM: ends with the process, and is shared with no other"
        advice = "set db_uri to a directory if restarts or several processes matter"
        yield Finding("ok", "store", message, advice)
        return
    in_bucket = is_bucket(config.db_uri)
    advice = f"see docs/{'object-storage' if in_bucket else 'redis'}.md"
    try:
        store, stored = open_to_look(config)
        with closing(store):
            count = store.count()
    except MemoraError as error:
        # Other causes of this error (no bucket, no permission) are not solved by opening a cache.
        if not (isinstance(error, StorePathError) and str(error).startswith("there is no table")):
            yield Finding("problem", "store", fault_line(error), advice)
            return
        yield Finding("warning", "store", str(error), "it is made when a cache is opened")
    else:
        place = "in object storage" if in_bucket else "on a server"
        yield Finding("ok", "store", f"{count:,} entries of {stored.identity} {place}")
        for text in getattr(store, "unsuitable", ()):
            yield Finding("warning", "server", text, advice)
        if embedder is not None:
            yield _compare(embedder, stored.identity, stored.dimension)
    if in_bucket:
        yield _writes(config, advice)


def _writes(config: CacheConfig, advice: str) -> Finding:
    from memora.stores.bucket import store as bucket  # noqa: PLC0415 - imported only for this kind of store

    try:
        bucket.probe(config.db_uri, config.storage_options, config.table_name)
    except StoreError as error:
        return Finding("problem", "writes", fault_line(error), advice)
    return Finding("ok", "writes", "an object was created where there was none, and removed")


def _store(config: CacheConfig, embedder: Embedder | None, found: list[Finding]) -> Facts | None:
    if not is_on_disk(config.db_uri):
        found += _off_disk(config, embedder)
        return None
    try:
        path = local_path(config.db_uri)
    except ConfigError as error:
        found.append(Finding("problem", "store", str(error), "set db_uri to a directory"))
        return None
    return _directory(path, config, found)


def _directory(path: Path, config: CacheConfig, found: list[Finding]) -> Facts | None:
    rights = f"give user {_user()} the right to read and write it, and all in it"
    try:
        found += _disk(path, config)
        if not path.is_dir():
            return None
    except PermissionError as error:  # from a parent directory
        message = f"{str(path)!r} cannot be looked at: {error.strerror}"
        found.append(Finding("problem", "store", message, rights))
        return None
    try:
        facts = inspect(path, config.table_name)
    except StoreFormatError as error:
        advice = "upgrade memora-cache, or choose another table_name: see docs/operations.md"
        found.append(Finding("problem", "store", str(error), advice))
    except StorePathError as error:
        usable = os.access(path, os.R_OK | os.W_OK | os.X_OK)
        if not usable or (path / f"{config.table_name}.lance").exists():
            found.append(Finding("problem", "store", str(error), rights))
        else:
            advice = "it is made when a cache is opened; check db_uri and table_name if there was"
            found.append(Finding("warning", "store", str(error), advice))
    except (MemoraError, OSError) as error:
        advice = "restore it from an export, or delete the table and its log: a cache can be lost"
        found.append(Finding("problem", "store", fault_line(error), advice))
    else:
        message = (
            f"format {facts.format}, {facts.model}, open in {facts.processes} processes, "
            f"{'one' if facts.kept else 'no'} process maintains the table; "
            f"table {facts.table_bytes:,} bytes, log {facts.log_bytes:,}"
        )
        found.append(Finding("ok", "store", message))
        found += _rights(path, config.table_name)
        return facts
    return None


def _disk(path: Path, config: CacheConfig) -> Iterator[Finding]:
    there = next((one for one in (path.absolute(), *path.absolute().parents) if one.exists()), None)
    if there is None or not there.is_dir():
        yield Finding("problem", "disk", f"{there} is no directory", "correct db_uri")
        return
    if there != path.absolute():
        state: State = "ok" if os.access(there, os.W_OK | os.X_OK) else "problem"
        advice = None if state == "ok" else f"user {_user()} may not make it in {there}"
        yield Finding(state, "directory", f"{path} is made when a cache is opened", advice)
    free = shutil.disk_usage(there).free
    message = f"{free / 1e9:,.1f} GB free"
    if free < max(_LITTLE_SPACE, config.max_bytes or 0):
        advice = "make room: a full disk stops storing, not lookups"
        yield Finding("warning" if free else "problem", "disk", message, advice)
    else:
        yield Finding("ok", "disk", message)
    kind = _file_system(there)
    if kind in _REMOTE:
        advice = "use a local disk: locks and fsync of network file systems are not to be relied on"
        yield Finding("warning", "file system", kind, advice)
    elif kind in _FLEETING:
        advice = "mount a volume if entries should outlive the machine or the container"
        yield Finding("warning", "file system", kind, advice)
    elif kind:
        yield Finding("ok", "file system", kind)


def _rights(path: Path, table_name: str) -> Iterator[Finding]:
    for folder in (path / f"{table_name}.lance", path / f"{table_name}.log"):
        refused = [
            one.name
            for one in (folder, *folder.iterdir())
            if not os.access(one, os.R_OK | (os.W_OK if one.is_dir() else 0))
        ]
        if refused:
            advice = f"let user {_user()} own it: all processes on a store should be of one user"
            message = f"{len(refused)} files are not accessible, such as {refused[0]!r}"
            yield Finding("problem", folder.name, message, advice)
        elif path.stat().st_mode & folder.stat().st_mode & stat.S_IXOTH and os.name == "posix":
            advice = f"chmod -R o-rwx {path}, if they are not meant to"
            yield Finding("warning", folder.name, "all users of this machine may read it", advice)


def _compare(embedder: Embedder, model: str, dimension: int) -> Finding:
    if (embedder.identity, embedder.dimension) == (model, dimension):
        return Finding("ok", "vectors", "the store's are of this model")
    if isinstance(embedder, ByLanguage) and embedder.english_only.identity == model:
        message = "the store's are of the packaged English model alone"
        return Finding("warning", "vectors", message, REEMBED)
    message = f"the store's are of {model!r}, the settings name {embedder.identity!r}"
    advice = "set model_name back, or copy the table for the new model: memora reembed"
    return Finding("problem", "vectors", message, advice)


def _print(found: list[Finding], settings: list[Setting]) -> None:
    console = Console(highlight=False)
    chosen = [one for one in settings if one.source != _DEFAULT]
    if chosen:
        table = Table("setting", "value", "from", title="settings", title_justify="left")
        for one in chosen:
            table.add_row(one.name, escape(one_line(str(one.value))), one.source)
        console.print(table)
    table = Table("", "what", "", title="findings", title_justify="left")
    for finding in found:
        message = escape(one_line(finding.details, 1000))
        advice = f"\n[bold]{escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(_MARKS[finding.state], finding.name, message + advice)
    console.print(table)


def _parsed(need: str) -> tuple[str, str, bool]:
    """Return name, minimum version and whether an extra requires it, from a line like `a>=1`."""
    name = re.match(r"[A-Za-z0-9._-]+", need)
    least = re.search(r">=\s*([0-9.]+)", need.partition(";")[0])
    return name.group() if name else need, least.group(1) if least else "0", "extra ==" in need


def _numbers(text: str) -> tuple[int, ...]:
    """Return the release of a version; for 2.26.5rc1 that is 2, 26, 5."""
    release = re.match(r"[0-9]+(\.[0-9]+)*", text)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def _files_limit() -> int | None:
    try:
        import resource  # noqa: PLC0415 - not available on Windows
    except ImportError:
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _file_system(path: Path) -> str:
    """Return the file system type of a path, if Linux reports it."""
    try:
        lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    except OSError:
        return ""
    resolved, best, kind = path.resolve(), -1, ""
    for line in lines:
        _, where, found, *_ = line.split(" ")
        mount = Path(where.replace("\\040", " "))
        depth = len(mount.parts)
        if depth >= best and (resolved == mount or mount in resolved.parents):
            best, kind = depth, found  # of equal depths, the last mount hides the others
    return kind


def _user() -> str:
    return str(os.geteuid()) if hasattr(os, "geteuid") else "of this process"
