"""The pages: their links hold, and the table of settings is that of the code."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from memora import CacheConfig

REPOSITORY = Path(__file__).parents[2]
SETTINGS = (REPOSITORY / "docs" / "configuration.md").read_text("utf-8")


@pytest.fixture(scope="module")
def build() -> Any:
    spec = spec_from_file_location("build_docs", REPOSITORY / "scripts" / "build_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_link_of_a_page_leads_to_a_file_and_a_heading(build: Any, tmp_path: Path) -> None:
    pages = build.Pages(tmp_path)
    pages.write()

    assert pages.faults == []
    assert (tmp_path / "index.md").exists()
    assert "](../benchmarks/" not in (tmp_path / "accuracy.md").read_text("utf-8")


def test_a_link_to_a_missing_file_or_heading_is_reported(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# A\n[b](docs/b.md#c-d) [gone](gone.md) [x](#nothing)\n")
    (tmp_path / "docs" / "b.md").write_text("## `C` [d](../README.md)!\n```\n[no](link.md)\n```\n")
    (tmp_path / "docs" / "site.css").touch()
    monkeypatch.setattr(build, "ROOT", tmp_path)

    pages = build.Pages(tmp_path / "pages")
    pages.write()

    assert pages.faults == [
        "README.md: no file for the link gone.md",
        "README.md: no heading for the link #nothing",
    ]
    assert "[b](b.md#c-d)" in (tmp_path / "pages" / "index.md").read_text("utf-8")
    assert "[d](index.md)" in (tmp_path / "pages" / "b.md").read_text("utf-8")


def test_a_broken_link_of_the_built_site_is_reported(build: Any, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.html").write_text('<h1 id="top">A</h1><a href="..#x">up</a>')
    (tmp_path / "index.html").write_text(
        '<a href="a/#top">fine</a><a href="a/#low">no heading</a><a href="b/">no page</a>'
        '<a href="https://example.org">elsewhere</a><img src="https://example.org/a.png">'
    )

    assert sorted(build.broken(tmp_path)) == [
        "a/index.html has a link to ..#x, which is no heading",
        "index.html has a link to a/#low, which is no heading",
        "index.html has a link to b/, which is no page",
        "index.html loads https://example.org/a.png",
    ]


def test_the_table_of_settings_has_each_with_its_variable_and_default() -> None:
    def written(value: Any) -> str:
        if value is None or value == {}:
            return "none"
        return str(value).lower() if isinstance(value, bool) else str(value)

    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `?([^|`]*)`? \|", SETTINGS, re.MULTILINE)
    expected = [
        (name, f"MEMORA_{name.upper()}", written(field.get_default(call_default_factory=True)))
        for name, field in CacheConfig.model_fields.items()
    ]

    assert sorted(rows) == sorted(expected)
