"""Build the documentation site from the pages of the repository, and check every link in it.

python scripts/build_docs.py         in an environment with requirements/docs.lock

The pages are read on GitHub as well, so their links are paths in the repository. The site has the
README as its start, the pages of `docs/` at its root, and every other file at its own path. It
holds each file that a page links to: Markdown as a page, other files as they are.

Errors are: a link to a missing file or heading, a warning of Zensical, a broken link in the built
pages, and a part of a page that a browser would load from another server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "pages"  # as in zensical.toml
SITE = ROOT / "build" / "site"

_FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
_LOADING = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href"}


def place(source: Path) -> Path:
    """Return where the site has a file of the repository."""
    path = source.relative_to(ROOT)
    if path.parts[0] == "docs":
        path = path.relative_to("docs")
    return path.with_name("index.md") if path.name == "README.md" else path


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = _HEADING.findall(_FENCE.sub("", page))
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


class Pages:
    """The pages of the site, written to a folder for the generator."""

    def __init__(self, folder: Path) -> None:
        self.faults: list[str] = []
        self._folder = folder
        pages = sorted((ROOT / "docs").rglob("*.md"))
        self._waiting = [ROOT / "README.md", *pages, ROOT / "docs" / "site.css"]
        self._seen = set(self._waiting)

    def write(self) -> None:
        """Write the start page, those of `docs/`, and whatever they link to."""
        while self._waiting:
            source = self._waiting.pop()
            target = self._folder / place(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".md":
                target.write_text(self._page(source), "utf-8")
            else:
                shutil.copyfile(source, target)

    def _page(self, source: Path) -> str:
        parts = _FENCE.split(source.read_text("utf-8"))

        def linked(found: re.Match[str]) -> str:
            return self._link(source, found[1])

        return "".join(
            part if part.startswith("```") else _LINK.sub(linked, part) for part in parts
        )

    def _link(self, source: Path, link: str) -> str:
        path, hash_, anchor = link.partition("#")
        if urlsplit(link).scheme:
            return link
        target = (source.parent / unquote(path)).resolve() if path else source
        if target.is_dir() and (target / "README.md").exists():
            target /= "README.md"
        if not target.is_file() or not target.is_relative_to(ROOT):
            self.faults.append(f"{source.relative_to(ROOT)}: no file for the link {link}")
            return link
        if anchor and anchor not in anchors(target.read_text("utf-8")):
            self.faults.append(f"{source.relative_to(ROOT)}: no heading for the link {link}")
        if target not in self._seen:
            self._seen.add(target)
            self._waiting.append(target)
        if not path:
            return link
        return Path(relpath(place(target), place(source).parent)).as_posix() + hash_ + anchor


class Built(HTMLParser):
    """The links, the anchors, and what a browser loads, of one built page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the attributes of a tag that lead somewhere."""
        has = {name: value for name, value in attrs if value}
        self.anchors.update(has[name] for name in ("id", "name") if name in has)
        loaded = has.get(_LOADING.get(tag, ""))
        if loaded and has.get("rel") not in {"canonical", "next", "prev"}:
            self.loads.append(loaded)
        if tag == "a" and "href" in has:
            self.links.append(has["href"])


def broken(site: Path) -> Iterator[str]:
    """Yield what is wrong with the links of a built site."""
    pages = {page: Built(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}
    for page, built in pages.items():
        name = page.relative_to(site)
        for link in {*built.links, *built.loads}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in built.loads and parts.scheme != "data":
                    yield f"{name} loads {link}"
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{name} has a link to {link}, which is no page"
                continue
            known = pages[target].anchors if target in pages else {parts.fragment}
            if parts.fragment and unquote(parts.fragment) not in known:
                yield f"{name} has a link to {link}, which is no heading"


def main() -> int:
    """Build the site; print what is wrong, and return the exit status."""
    for folder in (PAGES, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    pages = Pages(PAGES)
    pages.write()
    if pages.faults:
        print(*pages.faults, sep="\n", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
        return status
    faults = list(broken(SITE))
    print(*faults, f"{SITE.relative_to(ROOT)}: {len(faults)} broken links", sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
