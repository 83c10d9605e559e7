"""The files that GitHub and Citation File Format readers act on, by their schemas; offline."""

from __future__ import annotations

import re
from pathlib import Path

import check_jsonschema
import pytest
from click.testing import CliRunner

REPOSITORY = Path(__file__).parents[2]
GITHUB = REPOSITORY / ".github"
FORMS = sorted(
    set((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) - {GITHUB / "ISSUE_TEMPLATE/config.yml"}
)
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
        ("vendor.citation-file-format", [REPOSITORY / "CITATION.cff"]),
    ],
)
def test_each_file_is_one_by_its_schema(schema: str, paths: list[Path]) -> None:
    assert paths
    arguments = [f"--builtin-schema={schema}", "--default-filetype=yaml", *map(str, paths)]
    done = CliRunner().invoke(check_jsonschema.main, arguments)

    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: *(.*)", path.read_text("utf-8"))

    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/support.md"])
def test_the_readme_leads_to_what_is_promised(name: str) -> None:
    assert f"]({name})" in (REPOSITORY / "README.md").read_text("utf-8")
