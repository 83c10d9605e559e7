"""Reports as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from memora._show import duration, one_line, rounded
from memora.metrics import summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from memora.cli.replay import Example, Replay, Report


def print_report(console: Console, report: Report, *, title: str, call_seconds: float) -> None:
    """Print the totals of a replay, then examples of served and refused candidates."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in _totals(report, call_seconds):
        table.add_row(*row)
    console.print(table)
    _print_examples(console, "Served by meaning, the least similar", report.paraphrases)
    _print_examples(console, "Served wrongly, the most similar", report.mistakes)
    _print_examples(console, "Refused, the most similar", report.refusals, refused=True)
    _print_skipped(console, report)


def print_comparison(
    console: Console, replay: Replay, *, names: Sequence[str], title: str, call_seconds: float
) -> None:
    """Print the totals under two settings side by side, then what only one of them served."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(escape(name), justify="right")
    columns = [
        {row: value for row, value, _ in _totals(report, call_seconds)} for report in replay.reports
    ]
    for row in dict.fromkeys(row for column in columns for row in column):
        table.add_row(row, *(column.get(row, "-") for column in columns))
    console.print(table)
    for name, only in zip(names, replay.only, strict=True):
        counts = ", ".join(f"{n:,} {verdict}" for verdict, n in sorted(only.verdicts.items()))
        _print_examples(
            console, f"Served with {escape(name)} only: {counts}", only.examples, other=True
        )
    _print_skipped(console, replay.reports[0])


def _print_skipped(console: Console, report: Report) -> None:
    if report.skipped_lines:
        lines = "line" if report.skipped_lines == 1 else "lines"
        problem = escape(one_line(report.first_problem or ""))
        console.print(f"[yellow]{report.skipped_lines:,} {lines} skipped;[/] first: {problem}")


def _totals(report: Report, call_seconds: float) -> list[tuple[str, str, str]]:
    hits = report.hits
    exact, semantic = report.outcomes["exact"], report.outcomes["semantic"]
    plural = "" if report.contexts == 1 else "s"
    rows = [
        ("queries", f"{report.queries:,}", f"in {report.contexts} context{plural}"),
        ("hits", f"{hits:,}", f"{exact:,} same text, {semantic:,} by meaning"),
        ("hit rate", _share(hits, report.queries), ""),
    ]
    if report.possible_hits is not None:
        right = report.labelled_hits - report.wrong_hits
        reused = _share(right, report.possible_hits)
        rows += [
            ("wrong hits", f"{report.wrong_hits:,}", f"{_share(report.wrong_hits, hits)} of hits"),
            (
                "answers reused",
                reused,
                f"{right:,} right hits of {report.possible_hits:,} asked before",
            ),
        ]
    if report.outcomes["error"]:
        rows.append(("errors", f"{report.outcomes['error']:,}", "faults of the cache: see the log"))
    latency = summary(report.lookups.read())
    if latency["p50"] is not None:
        rows += [
            (f"lookup {name}", f"{latency[name]:.2f} ms", note)
            for name, note in (("p50", "embedding included"), ("p95", ""), ("p99", ""))
        ]
    saved = duration(report.seconds_saved(call_seconds))
    return [*rows, ("time saved", saved, f"if a call takes {call_seconds:g} s (--call-seconds)")]


def _print_examples(
    console: Console,
    title: str,
    examples: Sequence[Example],
    *,
    other: bool = False,
    refused: bool = False,
) -> None:
    if not examples:
        return
    # A verdict is on the decision; a column of "wrong" would read as being on the answer.
    labels = {"right": "[green]right answer[/]", "wrong": "[red]wrong answer[/]", "unlabelled": ""}
    if refused:
        labels |= {"right": "[green]rightly refused[/]", "wrong": "[red]hit lost[/]"}
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("query", ratio=3)
    table.add_column("nearest stored query", ratio=3)
    table.add_column("similarity", justify="right")
    table.add_column("why the other refused" if other else "why", ratio=2)
    if any(example.verdict != "unlabelled" for example in examples):
        table.add_column("by the labels")
    for example in examples:
        # Only the evidence, if any: the similarity has its own column.
        evidence = "; ".join(f"{one.kind}: {one.detail}" for one in example.evidence)
        table.add_row(
            escape(one_line(example.query)),
            escape(one_line(example.stored)),
            rounded(example.similarity),
            escape(one_line(evidence or example.explanation, 400)),
            labels[example.verdict],
        )
    console.print(table)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
