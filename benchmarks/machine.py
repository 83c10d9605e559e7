"""What a benchmark ran on, in one line."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> str:
    """Name processor, Python and the versions of packages; no host name."""
    found = [f"{os.cpu_count()} x {_processor()}", f"Python {platform.python_version()}"]
    found += [f"{package} {version(package)}" for package in packages]
    return ", ".join(found)


def _processor() -> str:
    information = Path("/proc/cpuinfo")  # where Linux says more than platform does
    lines = information.read_text("utf-8").splitlines() if information.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
