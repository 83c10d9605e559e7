"""The curve as a picture, and as a self-contained page. Needs the extra `tuning`."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from contextlib import ExitStack
from html import escape
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from memora.tuning import Curve, Of, Point, Recommendation

_GREEN, _RED, _BLACK = "#0b6e4f", "#c1121f", "#222222"
_FEW = 20  # a share of fewer hits is too noisy to draw
_WIDE = 3  # upper limit of the axis of wrong answers, as a multiple of the budget

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ width: 100%; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: 0.2rem 0.9rem; border-bottom: 1px solid #ddd; }}
</style>
</head>
<body>
<h1>{title}</h1>
{told}
<img alt="What is served and what of it is wrong, over the threshold; the table has the numbers."
 src="data:image/svg+xml;base64,{picture}">
<table>
<caption>In per cent</caption>
<thead><tr>{heading}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def draw(found: Recommendation, curve: Curve, kind: Literal["png", "svg"]) -> bytes:
    """Draw hits against wrong answers and, beside it, wrong answers against the threshold."""
    figure = _figure_type()(figsize=(12.4, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _against(left, found, curve)
    _over(right, found, curve)
    made = io.BytesIO()
    figure.savefig(made, format=kind, dpi=110)
    return made.getvalue()


def _figure_type() -> type[Figure]:
    """Import Matplotlib, which writes a list of the system's fonts on import.

    By default Matplotlib writes the list under HOME; here it goes to a temporary directory, unless
    `MPLCONFIGDIR` is set.
    """
    with ExitStack() as stack:
        if not os.environ.get("MPLCONFIGDIR"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="memora-fonts-"))
            os.environ["MPLCONFIGDIR"] = folder
            stack.callback(os.environ.pop, "MPLCONFIGDIR", None)
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    return Figure


def page(title: str, told: Sequence[str], picture: bytes, table: Sequence[Sequence[str]]) -> bytes:
    """Return an HTML page.

    Args:
        title: Title of the page.
        told: The recommendation, one paragraph per item.
        picture: An SVG.
        table: Rows; the first is the heading.
    """
    rows = (f"<tr>{_cells('td', row)}</tr>" for row in table[1:])
    return _PAGE.format(
        title=escape(title),
        told="\n".join(f"<p>{escape(text)}</p>" for text in told),
        picture=base64.b64encode(picture).decode(),
        heading=_cells("th", table[0]),
        rows="\n".join(rows),
    ).encode()


def _against(axes: Axes, found: Recommendation, curve: Curve) -> None:
    points = _shown(curve, found.of)
    wrong = [100 * point.wrong(found.of).value for point in points]
    served = [100 * point.served.value for point in points]
    budget = 100 * found.max_wrong
    axes.plot(wrong, served, color=_GREEN, lw=2.4, label="served")
    axes.axvline(budget, color=_BLACK, lw=1.0, ls="--", label=f"budget, {budget:g} %")
    if found.point is not None:
        _mark(axes, found.point, 100 * found.point.wrong(found.of).value, found.point.served.value)
    inside = [share for share, off in zip(served, wrong, strict=True) if off <= _WIDE * budget]
    axes.set(
        title="Answers served, against wrong answers",
        xlabel=_wrong_label(found.of),
        ylabel="served, % of all",
        xlim=(0, _WIDE * budget),
        ylim=(0, 1.12 * max(inside, default=1.0) or 1.0),
    )
    _finish(axes)


def _over(axes: Axes, found: Recommendation, curve: Curve) -> None:
    points = _shown(curve, found.of)
    thresholds = [point.threshold for point in points]
    wrong = [point.wrong(found.of) for point in points]
    budget = 100 * found.max_wrong
    axes.plot(thresholds, [100 * share.value for share in wrong], color=_RED, lw=2.4, label="wrong")
    axes.fill_between(
        thresholds,
        [100 * share.low for share in wrong],
        [100 * share.high for share in wrong],
        color=_RED,
        alpha=0.16,
        lw=0,
        label=f"its {100 * curve.confidence:g} % interval",
    )
    axes.axhline(budget, color=_BLACK, lw=1.0, ls="--", label=f"budget, {budget:g} %")
    if found.point is not None:
        _mark(axes, found.point, found.point.threshold, found.point.wrong(found.of).value)
    chosen = 1.0 if found.point is None else found.point.threshold
    axes.set(
        title="Wrong answers, by threshold",
        xlabel="similarity threshold",
        ylabel=_wrong_label(found.of),
        xlim=(max(min(0.5, chosen - 0.1), 0.0), 1.0),
        ylim=(0, _WIDE * budget),
    )
    _finish(axes)


def _mark(axes: Axes, point: Point, x: float, share: float) -> None:
    label = f"chosen: threshold {point.threshold:g}"
    axes.plot([x], [100 * share], "o", color=_BLACK, mec="white", ms=10, label=label, zorder=6)


def _finish(axes: Axes) -> None:
    axes.grid(visible=True, alpha=0.35)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=2, frameon=False)


def _shown(curve: Curve, of: Of) -> list[Point]:
    least = _FEW if of == "hits" else 0
    return [point for point in curve.points if point.wrong(of).whole >= least]


def _wrong_label(of: Of) -> str:
    return f"wrong, % of {'all' if of == 'all' else 'what is served'}"


def _cells(tag: str, row: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
