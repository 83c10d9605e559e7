"""Draw docs/images/demo.svg and explain.svg: what `memora demo` and `memora explain` print.

python scripts/terminal_pictures.py

The commands run as in a terminal, with the packaged model; the store that `explain` reads is made
here. The pictures use the reader's own fixed-width font: Rich's template would load one.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from memora import Memora

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
TEMPLATE = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "font-family: Fira Code, monospace", "font-family: ui-monospace, Menlo, Consolas, monospace"
)
CONTEXT = '{"agent": "sql"}'


def draw(name: str, command: str, *, width: int) -> None:
    """Run a command of `memora`, and draw what it prints on stdout."""
    done = subprocess.run(
        [sys.executable, "-c", "from memora.cli import main; main()", *shlex.split(command)[1:]],
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(width)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text("$ ", "bold green") + Text(command, "bold"))
    console.print(Text.from_ansi(done.stdout.rstrip()))
    picture = console.export_svg(
        title="memora", theme=DIMMED_MONOKAI, code_format=TEMPLATE, unique_id=name
    )
    lines = (line.rstrip() for line in picture.splitlines())
    (IMAGES / f"{name}.svg").write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    """Draw both pictures."""
    draw("demo", "memora demo --examples 2", width=104)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with Memora("./cache") as cache:
            cache.store("What was our revenue in Q3 2024?", {"agent": "sql"}, 1.5)
            cache.store("What was our margin in Q3 2024?", {"agent": "sql"}, 0.31)
            cache.store("What was our revenue in Q4 2024?", {"agent": "support"}, 1.7)
        query = "How much revenue did we make in Q4 2024?"
        draw("explain", f"memora explain \"{query}\" --db ./cache --context '{CONTEXT}'", width=104)


if __name__ == "__main__":
    main()
