"""scripts/setup.sh: what it says in one line, and which .venv it takes for finished.

The interpreters are doubles: this Python with another version or without a module, whose `-m venv`
copies the double and whose `-m pip` says what a pip said once, so that nothing is installed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the script is for a POSIX shell")
# What pip 23 to 26 say.
RETRYING = "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by "
NO_MATCH = """\
ERROR: Could not find a version that satisfies the requirement six==1.17.0 (from versions: none)
ERROR: No matching distribution found for six==1.17.0
"""

unprivileged = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere"
)


@dataclass
class Clone:
    """A clone whose path has spaces and letters that are not ASCII."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def setup(self, python: Path | str, lock: str = "small.lock") -> tuple[int, str]:
        """Run the script; return its status and what it said on stderr, one line at most."""
        done = subprocess.run(
            ["/bin/sh", "scripts/setup.sh", str(python), lock],
            cwd=self.root,
            env=dict(os.environ) | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stderr
        assert said.count("\n") == (1 if said else 0), said
        return done.returncode, said.removeprefix("setup: ").rstrip("\n")

    def python(
        self,
        name: str,
        *,
        version: tuple[int, int, int] = (3, 12, 1),
        without: str = "",
        pip: str = "",
    ) -> Path:
        """Make a double of an interpreter; with `pip`, its pip prints that and fails."""
        double = self.root.parent / name
        double.mkdir()
        (double / "sitecustomize.py").write_text(
            "import sys\n"
            f"sys.version_info = {version}\n"
            f"sys._base_executable = {str(double / 'python')!r}\n"
            f"sys.base_prefix = {name!r}\n"
            f"if {without!r}: sys.modules[{without!r}] = None\n"
        )
        script = double / "python"
        calls, folder = shlex.quote(str(self.pip_calls)), shlex.quote(str(double))
        script.write_text(f"""\
#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; exit ;;
"-m pip")
    echo "$* [${{PIP_USER-}}${{PYTHONPATH-}}]" >>{calls}
    printf %s {shlex.quote(pip)}
    exit {int(bool(pip))} ;;
esac
PYTHONPATH={folder} exec {shlex.quote(sys.executable)} "$@"
""")
        script.chmod(0o755)
        return script

    @property
    def pip_calls(self) -> Path:
        return self.root.parent / "pip calls"

    @property
    def venv(self) -> Path:
        return self.root / ".venv"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    root = tmp_path / "Ünï cödé" / "mémo ra"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "setup.sh", root / "scripts")
    for name in ("small.lock", "large.lock"):
        (root / name).write_text("six==1.17.0\n")
    return Clone(root)


def test_pip_chooses_nothing_and_asks_nothing(clone: Clone) -> None:
    clone.environment = {"PIP_USER": "1", "PYTHONPATH": "/elsewhere"}

    assert clone.setup(clone.python("good")) == (0, "")

    always = "--quiet --disable-pip-version-check --no-input --no-deps"
    assert clone.pip_calls.read_text("utf-8").splitlines() == [
        f"-m pip install {always} --require-hashes --only-binary=:all: --requirement small.lock []",
        f"-m pip install {always} --no-build-isolation --editable . []",
    ]


def test_an_interpreter_that_is_not_there_is_named(clone: Clone) -> None:
    status, said = clone.setup("no python/here")

    assert status == 1
    assert said.startswith("there is no interpreter 'no python/here': install Python 3.10 or newer")


def test_an_interpreter_that_does_not_run_is_quoted(clone: Clone) -> None:
    shim = clone.root / "shim"
    shim.write_text(
        "#!/bin/sh\necho 'pyenv: python3.12: command not found\n\nNote: ...' >&2; exit 127"
    )
    shim.chmod(0o755)

    status, said = clone.setup(shim)

    assert status == 1
    assert "does not run (pyenv: python3.12: command not found): install" in said


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18)])
def test_a_python_that_is_too_old_is_refused_with_its_version(
    clone: Clone, version: tuple[int, int, int]
) -> None:
    status, said = clone.setup(clone.python("old", version=version))

    assert status == 1
    assert f"is Python {'.'.join(map(str, version))}, which is too old: install Python 3.10" in said
    assert not clone.venv.exists()


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 14, 2), (4, 0, 0)])
def test_a_newer_python_is_taken(clone: Clone, version: tuple[int, int, int]) -> None:
    assert clone.setup(clone.python("new", version=version)) == (0, "")


def test_the_oldest_python_is_that_of_the_package() -> None:
    script = (REPOSITORY / "scripts" / "setup.sh").read_text("utf-8")
    project = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    oldest = set(re.findall(r"sys\.version_info < \((\d), (\d+)\)", script))

    assert re.findall(r'^requires-python = ">=(\d)\.(\d+)"', project, flags=re.MULTILINE) == [
        *oldest
    ]


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_says_what_to_install(clone: Clone, module: str) -> None:
    status, said = clone.setup(clone.python("bare", version=(3, 11, 2), without=module))

    assert status == 1
    assert "apt-get install python3.11-venv" in said
    assert not clone.venv.exists()


def test_a_lock_file_that_is_missing_is_named(clone: Clone) -> None:
    status, said = clone.setup(clone.python("good"), "no.lock")

    assert status == 1
    assert said.startswith("the lock file 'no.lock' is missing")


@pytest.mark.parametrize(
    ("pip", "expected"),
    [
        (
            RETRYING + "'NewConnectionError(\"HTTPSConnection(host='nosuch.invalid'): Failed to "
            "establish a new connection: [Errno -2] Name or service not known\")': /simple/six/\n"
            + NO_MATCH,
            "pip cannot reach the package index ([Errno -2] Name or service not known): check the",
        ),
        (
            RETRYING + "'ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: "
            "403 Forbidden'))': /simple/six/\n",
            "pip cannot reach the package index (Tunnel connection failed: 403 Forbidden): check",
        ),
        (
            "ERROR: HTTP error 503 Server Error: Service Unavailable for url: https://x/six.whl\n",
            "pip cannot reach the package index (503 Server Error: Service Unavailable for url): ",
        ),
        (NO_MATCH, "the package index has no six==1.17.0 for Python 3.12 on "),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If ...\n",
            "a downloaded file is not the one that 'small.lock' names",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left\n\n",
            "pip failed: Could not install packages due to an OSError: [Errno 28] No space left (",
        ),
        ("python: No module named pip\n", "pip failed: python: No module named pip ("),
    ],
)
def test_what_pip_says_in_many_lines_is_said_in_one(clone: Clone, pip: str, expected: str) -> None:
    status, said = clone.setup(clone.python("failing", pip=pip))

    assert status == 1
    assert said.startswith(expected)
    assert (clone.venv / "setup.log").read_text("utf-8") == pip


def test_a_finished_environment_is_added_to(clone: Clone) -> None:
    python = clone.python("good")
    clone.setup(python)
    (clone.venv / "stamp").touch()

    assert clone.setup(python, "large.lock") == (0, "")
    assert (clone.venv / "stamp").exists()


def test_an_interrupted_one_is_made_anew(clone: Clone) -> None:
    clone.setup(clone.python("failing", pip="ERROR: interrupted\n"))
    (clone.venv / "stamp").touch()

    assert clone.setup(clone.python("good")) == (0, "")
    assert not (clone.venv / "stamp").exists()


def test_one_whose_second_lock_file_was_interrupted_is_made_anew(clone: Clone) -> None:
    python = clone.python("good")
    clone.setup(python)
    (clone.venv / "stamp").touch()
    script = (clone.venv / "bin" / "python").read_text("utf-8")
    (clone.venv / "bin" / "python").write_text(script.replace("exit 0 ;;", "kill $PPID; exit 1 ;;"))

    assert clone.setup(python, "large.lock")[0] != 0
    assert clone.setup(python) == (0, "")
    assert not (clone.venv / "stamp").exists()


def test_another_interpreter_makes_it_anew(clone: Clone) -> None:
    clone.setup(clone.python("good"))
    (clone.venv / "stamp").touch()

    assert clone.setup(clone.python("other")) == (0, "")
    assert not (clone.venv / "stamp").exists()


def test_a_clone_that_was_moved_makes_it_anew(clone: Clone) -> None:
    python = clone.python("good")
    clone.setup(python)
    (clone.venv / "stamp").touch()
    moved = Clone(clone.root.rename(clone.root.with_name("moved")))

    assert moved.setup(python) == (0, "")
    assert not (moved.venv / "stamp").exists()


def test_a_folder_that_is_no_environment_is_left_alone(clone: Clone) -> None:
    (clone.venv / "lib").mkdir(parents=True)

    status, said = clone.setup(clone.python("good"))

    assert status == 1
    assert said == (
        f"'{clone.venv}' is not a virtual environment with pip and Python 3.10 or newer: "
        "move it away or remove it, and try again"
    )
    assert (clone.venv / "lib").exists()


def test_an_environment_that_the_user_made_is_used_as_it_is(clone: Clone) -> None:
    python = clone.python("good")
    (clone.venv / "bin").mkdir(parents=True)
    shutil.copy(clone.python("another"), clone.venv / "bin" / "python")

    assert clone.setup(python) == (0, "")
    (clone.venv / "bin" / "python").rename(clone.venv / "bin" / "kept")
    shutil.copy(clone.python("broken", pip="ERROR: interrupted\n"), clone.venv / "bin" / "python")
    assert clone.setup(python, "large.lock")[0] == 1
    shutil.copy(clone.venv / "bin" / "kept", clone.venv / "bin" / "python")
    assert clone.setup(python, "large.lock") == (0, "")
    assert (clone.venv / "bin" / "kept").exists()


@unprivileged
def test_a_folder_that_is_not_writable_is_named(clone: Clone) -> None:
    python = clone.python("good")
    clone.root.chmod(0o555)

    status, said = clone.setup(python)
    clone.root.chmod(0o755)

    assert status == 1
    assert said == f"the folder '{clone.root}' is not writable: clone into one that is"


@unprivileged
def test_a_home_that_is_not_writable_costs_pip_its_cache(clone: Clone, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    clone.environment = {"HOME": str(home), "XDG_CACHE_HOME": "", "PIP_CACHE_DIR": ""}

    status, said = clone.setup(clone.python("good"))

    assert status == 0
    assert said.startswith(
        f"'{home}' is not writable, so downloads are not kept: set PIP_CACHE_DIR"
    )
