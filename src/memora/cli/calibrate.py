"""`memora calibrate`: choose the threshold for a budget of wrong answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memora import tuning
from memora.cli import chart
from memora.cli.common import AsJson, ModelName, config_of, note, progress_of
from memora.cli.labels import Logged, PairColumns, read_log, read_pairs
from memora.cli.outputs import check_writable, with_setting, write_all
from memora.config import PREFIX
from memora.embedders import load_embedder
from memora.errors import ArgumentError, MissingExtraError
from memora.judge import Judge
from memora.judge.verifier import packaged_verifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.config import CacheConfig
    from memora.tuning import Curve, Of, Recommendation, Scores, Share

EXIT_NONE = 1

_SETTING = f"{PREFIX}SIMILARITY_THRESHOLD"
_LOG = f"{PREFIX}SHADOW_LOG"
_TOLD = (0.99, 0.97, 0.95, 0.93, 0.9, 0.87, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)  # rows of the table
_HEADING = (  # percentages
    *("threshold", "served", "of\nright"),
    *("wrong\nof all", "at\nmost"),
    *("wrong\nof hits", "at\nmost"),
)


def calibrate(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Labelled pairs: CSV, TSV or JSON; may be .gz; - reads standard input. With "
            f"--from-log, a shadow log; default: the one that {_LOG} names."
        ),
    ] = None,
    *,
    from_log: Annotated[
        bool, typer.Option("--from-log", help="Read the log of a cache in shadow mode.")
    ] = False,
    max_wrong: Annotated[
        str, typer.Option(help="Maximum share of wrong answers: 1% or 0.01.")
    ] = "1%",
    of: Annotated[
        str, typer.Option(help="The base of --max-wrong: all (all lookups) or hits.")
    ] = "all",
    confidence: Annotated[
        str, typer.Option(help="Confidence that the budget holds: 95% or 0.95.")
    ] = "95%",
    query: Annotated[str | None, typer.Option(help="Column of the query.")] = None,
    candidate: Annotated[str | None, typer.Option(help="Column of the stored query.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the label: whether one answer is right for both.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the curve to this .png.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a self-contained report to this .html.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help=f"Set {_SETTING} in this env file, created if missing.")
    ] = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Recommend a threshold for a budget of wrong answers. Exit code 1 if there is none."""
    _check_extra("scipy")
    if plot is not None or html is not None:
        _check_extra("matplotlib")
    if of not in {"all", "hits"}:
        raise ArgumentError(f"--of {of!r}: expected all or hits")
    if from_log and (query or candidate or label):
        raise ArgumentError("--query, --candidate and --label are columns of a file of pairs")
    share, sure = _share("--max-wrong", max_wrong), _share("--confidence", confidence)
    config = config_of(model=model)
    source = _source(file, config, from_log=from_log)
    _check_outputs(source, plot, html, write)
    if from_log:
        scores = _logged(read_log(source), source)
    else:
        scores = _score(source, PairColumns(query, candidate, label), config)
    curve = tuning.curve(scores.similarity, scores.right, confidence=sure)
    found = tuning.recommend(curve, share, of=cast("Of", of), confidence=sure)
    paragraphs = _paragraphs(found, curve, "lookups" if from_log else "pairs")
    rows = _rows(curve, found)
    contents: dict[Path, bytes] = {}
    if plot is not None:
        contents[plot] = chart.draw(found, curve, "png")
    if html is not None:
        picture = chart.draw(found, curve, "svg")
        contents[html] = chart.page(f"Threshold by {source.name}", paragraphs, picture, rows)
    if write is not None and found.point is not None:
        contents[write] = with_setting(write, _SETTING, f"{found.point.threshold:g}")
    write_all(contents)
    if as_json:
        typer.echo(json.dumps(_as_dict(found, curve, list(contents))))
    else:
        _print(paragraphs, rows, list(contents), title=source.name)
    if found.point is None:
        raise typer.Exit(EXIT_NONE)


def _check_extra(library: str) -> None:
    if find_spec(library) is None:
        needs = "memora calibrate" if library == "scipy" else "memora calibrate --plot or --html"
        raise MissingExtraError(needs, extra="tuning")


def _source(file: Path | None, config: CacheConfig, *, from_log: bool) -> Path:
    if file is not None:
        return file
    if not from_log:
        raise ArgumentError("name a file of labelled pairs, or --from-log")
    if config.shadow_log is None:
        raise ArgumentError(f"--from-log: name the log of a cache in shadow mode, or set {_LOG}")
    return Path(config.shadow_log)


def _share(option: str, text: str) -> float:
    bare = text.strip()
    percent = bare.endswith("%")
    try:
        value = float(bare.rstrip("%")) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise ArgumentError(f"{option} {text!r}: expected a share above 0 and below 1: 1% or 0.01")
    return value


def _check_outputs(source: Path, plot: Path | None, html: Path | None, write: Path | None) -> None:
    for option, path, suffixes in (("--plot", plot, {".png"}), ("--html", html, {".html", ".htm"})):
        if path is not None and path.suffix.lower() not in suffixes:
            raise ArgumentError(
                f"{option} {str(path)!r}: expected a name that ends in {min(suffixes)}"
            )
    outputs = [path for path in (plot, html, write) if path is not None]
    if source.resolve() in {path.resolve() for path in outputs}:
        raise ArgumentError(f"{str(source)!r} is the input: write to another file")
    check_writable(outputs)
    if write is not None:
        with_setting(write, _SETTING, "")


def _score(path: Path, columns: PairColumns, config: CacheConfig) -> Scores:
    pairs = read_pairs(path, columns)
    embedder = load_embedder(config.model_name, use_onnx=config.use_onnx)
    judge = Judge(
        embedder.identity,
        enabled=config.judge == "on",
        cross_lingual=config.cross_lingual,
        verifier=packaged_verifier() if config.verifier == "on" else None,
    )
    with progress_of("embedding", left="no threshold was computed") as progress:
        return tuning.score(pairs, embedder=embedder, judge=judge, progress=progress)


def _logged(found: Logged, path: Path) -> Scores:
    if len(found.models) > 1:
        raise ArgumentError(
            f"{path.name} has similarities that cannot be compared: {'; '.join(found.models)}; log "
            "to a new file after a change of the model or the judge"
        )
    if found.skipped:
        note(f"{found.skipped:,} lines skipped; first: {found.problem}")
    if found.changed:
        note(
            f"{found.changed:,} of {found.repeats:,} repeats of the very same query had another "
            "answer: where that is no change of fact, give the cache a same_answer of yours"
        )
    return found.scores


def _paragraphs(found: Recommendation, curve: Curve, what: str) -> list[str]:
    """Return the recommendation in words, one or two sentences per paragraph."""
    whose = f"of all {what}" if found.of == "all" else "of the hits"
    wanted = f"at most {_percent(found.max_wrong)} wrong {whose}"
    sure = f"with {_percent(found.confidence)} confidence"
    if found.point is not None and found.wrong is not None:
        point = found.point
        return [
            (
                f"Threshold {point.threshold:g} has {_percent(found.wrong.value)} wrong {whose} "
                f"({_ends(found.wrong)}): {wanted}, {sure}, for queries like these "
                f"{curve.pairs:,} {what}."
            ),
            (
                f"It serves {_percent(point.served.value)} of them, and "
                f"{_percent(point.right_served / curve.right)} of those that one answer serves. "
                f"Of what it serves, {_percent(point.wrong_of_hits.value)} "
                f"({_ends(point.wrong_of_hits)}) is wrong."
            ),
        ]
    if found.status == "too_few" and found.needed is not None:
        more = found.needed - curve.pairs
        return [
            (
                f"Too few {what}: {curve.pairs:,} cannot show {wanted}, {sure}. About "
                f"{more:,} more like these might, {found.needed:,} in all."
            )
        ]
    if not any(point.served.count for point in curve.points):
        return [f"No threshold serves any of these {curve.pairs:,} {what}."]
    return [
        (
            f"No threshold meets {wanted}: every threshold that serves anything serves more wrong "
            "answers than that, or so nearly as many that more labels would not help. Allow more, "
            "or look at the wrong answers: `memora replay` shows examples."
        )
    ]


def _ends(share: Share) -> str:
    return f"{100 * share.low:.3g} to {_percent(share.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _rows(curve: Curve, found: Recommendation) -> list[Sequence[str]]:
    """Return the table: the heading, and selected thresholds including the recommended one."""
    chosen = None if found.point is None else found.point.threshold
    wanted = {*_TOLD, chosen}
    rows: list[Sequence[str]] = [_HEADING]
    for point in curve.points:
        if point.threshold in wanted:
            mark = "> " if point.threshold == chosen else ""
            of_all, of_hits = point.wrong_of_all, point.wrong_of_hits
            cells = (
                f"{mark}{point.threshold:g}",
                f"{100 * point.served.value:.1f}",
                f"{100 * point.right_served / curve.right:.1f}",
                f"{100 * of_all.value:.2f}",
                f"{100 * of_all.high:.2f}",
                f"{100 * of_hits.value:.1f}",
                f"{100 * of_hits.high:.1f}",
            )
            rows.append(cells)
    return rows


def _print(
    paragraphs: Sequence[str], rows: Sequence[Sequence[str]], written: Sequence[Path], *, title: str
) -> None:
    table = Table(title=f"{escape(title)}, in %", title_justify="left", box=box.SIMPLE_HEAD)
    for name in rows[0]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row, style="bold" if row[0].startswith(">") else None)
    console = Console(highlight=False)
    console.print(table)
    for text in paragraphs:
        console.print(text, markup=False, soft_wrap=True)
    for path in written:
        note(f"written: {path}")


def _as_dict(found: Recommendation, curve: Curve, written: Sequence[Path]) -> dict[str, Any]:
    shown = asdict(found)
    del shown["point"]
    shown["threshold"] = None if found.point is None else found.point.threshold
    shown["served"] = None if found.point is None else found.point.served.value
    if found.wrong is not None:
        shown["wrong"]["value"] = found.wrong.value
    return {
        "recommendation": shown,
        "pairs": curve.pairs,
        "right": curve.right,
        "curve": [
            {
                "threshold": point.threshold,
                "served": point.served.count,
                "right": point.right_served,
                "wrong": point.wrong_of_all.count,
                "wrong_of_all": [point.wrong_of_all.low, point.wrong_of_all.high],
                "wrong_of_hits": [point.wrong_of_hits.low, point.wrong_of_hits.high],
            }
            for point in curve.points
        ],
        "written": [str(path) for path in written],
    }
