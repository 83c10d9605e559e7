"""What judging costs: `python benchmarks/judge_speed.py`.

Five candidates a query, all of twenty words: the answers and queries of the packaged demo log,
each query beside texts that share most of its words. No model runs. "seen": the stored queries
have been judged before by this process, as in a running cache; "new": nothing has been.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from importlib.resources import files

from machine import machine

from memora.judge import Judge
from memora.judge._text import analyse, forget

WORDS, CANDIDATES = 20, 5


def main() -> None:
    """Print a table of medians in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311 - no secret
    texts = _texts(draw)
    judge = Judge("all-MiniLM-L6-v2")
    judge.assess(texts[0], [(texts[1], 0.9)])  # loads the word lists
    samples: dict[str, list[float]] = {"seen": [], "new": []}
    for _ in range(options.rounds):
        query = draw.choice(texts)
        stored = [(_reworded(query, texts, draw), 0.9) for _ in range(CANDIDATES)]
        for name, found in samples.items():
            forget()
            if name == "seen":
                for text, _ in stored:
                    analyse(text)
            started = time.perf_counter()
            judge.assess(query, stored)
            found.append(time.perf_counter() - started)
    print(f"{machine('text2num', 'PyStemmer', 'rapidfuzz')}; {options.rounds} rounds\n")
    print(f"| {CANDIDATES} candidates of {WORDS} words | median ms | p95 ms |\n|---|---:|---:|")
    for name, found in samples.items():
        median, high = statistics.median(found), statistics.quantiles(found, n=20)[-1]
        print(f"| {name} | {1000 * median:.3f} | {1000 * high:.3f} |")


def _texts(draw: random.Random) -> list[str]:
    lines = (files("memora") / "demo" / "queries.jsonl").read_text("utf-8").splitlines()
    words = [
        word
        for record in map(json.loads, lines)
        for word in f"{record['query']} {record['answer']}".split()
    ]
    starts = [draw.randrange(len(words) - WORDS) for _ in range(500)]
    return [" ".join(words[start : start + WORDS]) for start in starts]


def _reworded(query: str, texts: list[str], draw: random.Random) -> str:
    """Replace a few words, so that there is something to compare."""
    words, others = query.split(), draw.choice(texts).split()
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(WORDS)
        words[at] = others[at]
    return " ".join(words)


if __name__ == "__main__":
    main()
