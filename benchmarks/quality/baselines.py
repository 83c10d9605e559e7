"""What other caches do by default, as the least cosine that they serve.

Each of these rules is a threshold on the distance of the nearest. They are applied to our vectors,
in numpy: what is compared is the default of the rule, and neither the package's own embedding
model nor its speed. The values were read from the packages named; with `probe` they are asked.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STATIC = (0.80, 0.85, 0.90, 0.95)


@dataclass(frozen=True)
class Default:
    """A default of a package."""

    name: str
    package: str
    version: str
    cosine: float
    """The least that is served."""
    rule: str
    asked: bool = False
    """Whether the package was asked in this run."""


DEFAULTS = (
    Default(
        "gptcache",
        "gptcache",
        "0.1.44",
        0.6,
        "SearchDistanceEvaluation: 4 - squared distance, of which 0.8 * 4 is enough",
    ),
    Default(
        "gptcache-norm",
        "gptcache",
        "0.1.44",
        0.92,
        "NumpyNormEvaluation: 2 - distance, of which 0.8 * 2 is enough",
    ),
    Default("reminiscence", "reminiscence", "0.5.0", 0.8, "similarity_threshold 0.8"),
    Default("mneme", "mneme-cache", "1.0.1", 0.85, "similarity_threshold 0.85"),
    Default("redisvl", "redisvl", "0.28.0", 0.9, "distance_threshold 0.1, of 1 - cosine"),
)

# Runs in the peers' Python; prints name: [version, least cosine]. A package that is not there is
# left out.
_PROBE = """
import inspect, json, math
from importlib.metadata import version

def least(served):
    low, high = -1.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if served(middle) else (middle, high)
    return round(high, 6)

def default(function, name):
    return inspect.signature(function).parameters[name].default

def gptcache(evaluator, facts):
    from gptcache.config import Config
    low, high = evaluator.range()
    enough = (high - low) * Config().similarity_threshold
    return least(lambda cosine: evaluator.evaluation(*facts(cosine)) >= enough)

def searched():
    from gptcache.similarity_evaluation import SearchDistanceEvaluation
    facts = lambda cosine: ({}, {"search_result": (2 - 2 * cosine, None)})
    return gptcache(SearchDistanceEvaluation(), facts)

def normed():
    import numpy as np
    from gptcache.similarity_evaluation.np import NumpyNormEvaluation
    at = lambda cosine: np.array([cosine, math.sqrt(max(1 - cosine * cosine, 0))])
    side = lambda name, cosine: {"question": name, "embedding": at(cosine)}
    return gptcache(NumpyNormEvaluation(), lambda cosine: (side("a", 1.0), side("b", cosine)))

def reminiscence():
    from reminiscence import ReminiscenceConfig
    return default(ReminiscenceConfig, "similarity_threshold")

def mneme():
    from mneme import SemanticCache
    return default(SemanticCache, "similarity_threshold")

def redisvl():
    from redisvl.extensions.cache.llm import SemanticCache
    return 1 - default(SemanticCache, "distance_threshold")

found = {}
for name, package, ask in (
    ("gptcache", "gptcache", searched), ("gptcache-norm", "gptcache", normed),
    ("reminiscence", "reminiscence", reminiscence), ("mneme", "mneme-cache", mneme),
    ("redisvl", "redisvl", redisvl),
):
    try:
        found[name] = version(package), float(ask())
    except (ImportError, LookupError):
        pass
print(json.dumps(found))
"""


def probe(python: Path) -> tuple[Default, ...]:
    """Ask the packages of another environment for their defaults."""
    done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} cannot tell the peers' defaults: {done.stderr[-500:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return tuple(
        replace(default, version=found[default.name][0], cosine=found[default.name][1], asked=True)
        if default.name in found
        else default
        for default in DEFAULTS
    )
