"""What is shipped, what importing costs, and which way imports go."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import metadata, requires
from importlib.resources import files
from pathlib import Path

import pytest

import memora
from memora.cli.app import app

SOURCE = Path(memora.__file__).parent  # the installed package: a wheel's, in the matrix
REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    "lancedb",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
    "numpy",
    "torch",
    "pydantic",
    "obstore",
)


def modules_after(code: str) -> set[str]:
    """Return the top-level names in sys.modules after running code in a new interpreter."""
    script = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_importing_memora_imports_nothing_heavy() -> None:
    assert modules_after("import memora").isdisjoint(HEAVY)


def test_importing_the_public_names_leaves_engines_and_frames_alone() -> None:
    loaded = modules_after("from memora import CacheConfig, Explanation, LookupResult, Memora")

    assert loaded.isdisjoint({"lancedb", "onnxruntime", "pandas", "polars", "torch", "tokenizers"})


def test_a_cache_in_memory_needs_no_lancedb() -> None:
    loaded = modules_after(
        "from memora import Memora, CacheConfig\n"
        "cache = Memora(CacheConfig())\n"
        "cache.store('q', {}, 1)\n"
        "assert cache.lookup('q').is_hit"
    )

    assert loaded.isdisjoint({"lancedb", "pandas", "polars", "torch"})


def test_public_names_are_listed_and_there() -> None:
    assert memora.__all__ == sorted(memora.__all__)
    former = {"Selected": "EntryInfo"}
    assert set(memora.__all__) <= set(dir(memora))
    for name in memora.__all__:
        assert getattr(memora, name).__name__.removeprefix("memora.") == former.get(name, name)
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        memora.Missing  # noqa: B018
    assert memora.__version__ == metadata("memora-cache")["Version"]


def test_torch_is_not_in_the_default_install() -> None:
    core = [need for need in requires("memora-cache") or [] if "extra ==" not in need]

    assert core
    assert not any(need.startswith(("torch", "sentence", "pandas", "polars")) for need in core)


@pytest.mark.parametrize(
    "name", ["py.typed", "demo/queries.jsonl", "demo/README.md", "judge/words/antonyms.txt"]
)
def test_data_is_shipped(name: str) -> None:
    assert files("memora").joinpath(name).is_file()


# Lower rooms never import higher ones. A package stands for all its modules.
ORDER = [
    [
        "errors",
        "model",
        "selection",
        "protocols",
        "reading",
        "_durations",
        "_files",
        "_log",
        "concurrency",
        "_onnxruntime",
        "_names",
        "_show",
        "_uris",
        "_faults",
    ],
    [
        "calls",
        "context",
        "config",
        "judge",
        "metrics",
        "index",
        "eviction",
        "scheduler",
        "_arguments",
        "_characters",
        "_clock",
    ],
    ["codec", "embedders", "shadow", "stores", "tuning"],
    ["pipeline", "lifecycle", "transfer"],
    ["core", "cached_call", "health", "prometheus", "otel"],
    ["cache", "_administration", "_criteria", "_observation", "_parts"],
    ["cli"],
]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memora"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_imports_go_one_way() -> None:
    rank = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for imported in imports_of(path) - {room}:
            assert rank[imported] <= rank[room], f"{path.name} imports {imported}"


def test_every_room_is_on_the_map() -> None:
    contributing = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    rooms = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py"}
    rooms |= {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}

    for room in rooms - {"__init__"}:
        assert f"{room}.py`" in contributing or f"`{room}/`" in contributing, room


def test_every_command_is_documented() -> None:
    guide = (REPOSITORY / "docs" / "guide.md").read_text("utf-8")
    commands = [("", command) for command in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands += [(f"{group.name} ", one) for one in group.typer_instance.registered_commands]
    for prefix, command in commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert f"`memora {prefix}{name}" in guide
