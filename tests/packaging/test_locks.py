"""The locks: what they pin is complete and exact, so that pip, of whatever age, chooses nothing."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
LOCKS = ["run", "dev", "docs"]


@cache
def entries(lock: str) -> list[tuple[Requirement, int]]:
    """Return the requirements of a lock file, each with the number of its hashes."""
    text = (REPOSITORY / "requirements" / f"{lock}.lock").read_text("utf-8")
    lines = re.sub(r" *\\\n", "", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [
        (Requirement(line.split("--hash=")[0]), line.count("--hash=sha256:"))
        for line in lines
        if line.strip()
    ]


def pinned(lock: str) -> dict[str, Requirement]:
    """Return what a lock installs into this interpreter."""
    found = [one for one, _ in entries(lock) if one.marker is None or one.marker.evaluate()]
    names = [canonicalize_name(one.name) for one in found]
    assert len(names) == len(set(names))
    return dict(zip(names, found, strict=True))


def needs(one: Requirement) -> Iterator[Requirement]:
    """Yield what an installed distribution requires here, with the extras that are asked for."""
    found = distribution(one.name)
    if one.specifier and found.version not in one.specifier:  # a session of nox, or an upgrade
        pytest.skip(f"{one.name} {found.version} is installed: this environment is not the lock's")
    for line in found.requires or []:
        need = Requirement(line)
        if need.marker is None or any(
            need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)
        ):
            yield need


@pytest.mark.parametrize("lock", LOCKS)
def test_each_requirement_is_pinned_and_hashed(lock: str) -> None:
    for one, hashes in entries(lock):
        assert re.fullmatch(r"==[^*,]+", str(one.specifier)), one
        assert hashes, one


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_is_left_for_pip_to_choose(lock: str) -> None:
    """All that a pinned package needs, under the extras it is needed with, is pinned too."""
    pins = pinned(lock)
    for one in pins.values():
        try:
            wanted = list(needs(one))
        except PackageNotFoundError:  # a session of nox that installs less
            pytest.skip(f"{one.name} is not installed: this environment is not the lock's")
        for need in wanted:
            pin = pins.get(canonicalize_name(need.name))
            assert pin is not None, f"{one} needs {need}, which {lock}.lock does not pin"
            assert need.specifier.contains(str(pin.specifier)[2:], prereleases=True), (one, need)
            if need.extras:
                missing = {str(each) for each in needs(need)} - {str(each) for each in needs(pin)}
                assert not missing, f"{one} needs {need}; {lock}.lock pins {pin}"


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_agree(lock: str) -> None:
    everything = pinned("dev")
    for name, one in pinned(lock).items():
        if lock != "docs" or name in everything:
            assert everything[name].specifier == one.specifier


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_satisfies_the_package_and_its_command_line(lock: str) -> None:
    pins = pinned(lock)
    for need in needs(Requirement("memora-cache[cli]")):
        pin = pins[canonicalize_name(need.name)]
        assert need.specifier.contains(str(pin.specifier)[2:], prereleases=True), need


def test_building_the_package_needs_only_what_is_pinned() -> None:
    assert {"editables", "hatchling", "pip"} <= pinned("run").keys()
