"""The curve as a picture: PNG by matplotlib, SVG in a page by hand. One description, two pens."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from memora.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.tuning import Curve, Of, Point, Recommendation

JUDGED, BARE, WRONG, INK = "#0b6e4f", "#7f7f7f", "#c1121f", "#222222"

_FEW = 20  # hits, below which a share of them is left out of the picture
_WIDTH, _HEIGHT = 560, 430  # of a panel, in SVG's units
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 18, 42, 124
_TICKS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """Points, joined."""

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    width: float = 2.0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """What is between two curves over the same x."""

    label: str
    colour: str
    points: Sequence[tuple[float, float, float]]
    """x, low, high."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes, and what is in it."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, float]
    y: tuple[float, float]
    lines: list[Line] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    mark: tuple[str, float, float] | None = None
    """The chosen point: label, x, y."""


def panels(found: Recommendation, judged: Curve, bare: Curve | None) -> list[Panel]:
    """Describe the pictures: hits against wrong answers, and both over the threshold.

    Args:
        found: What is recommended.
        judged: By the similarity.
        bare: By the cosine alone, to compare with.
    """
    return [_against(found, judged, bare), _over(found, judged)]


def _against(found: Recommendation, judged: Curve, bare: Curve | None) -> Panel:
    of, budget = found.of, 100 * found.max_wrong
    curves = [("similarity, as judged", JUDGED, judged, 2.6)]
    curves += [] if bare is None else [("bare cosine", BARE, bare, 1.6)]
    widest, highest = 5 * budget, 1.0
    lines = []
    for label, colour, curve, width in curves:
        points = [
            (100 * point.wrong(of).value, 100 * point.served.value) for point in _shown(curve, of)
        ]
        if inside := [served for wrong, served in points if wrong <= widest]:
            lines.append(Line(label, colour, points, width))
            highest = max(highest, *inside)
    top = 1.12 * highest
    lines.append(_budget([(budget, 0.0), (budget, top)], found))
    mark = None
    if found.point is not None:
        spot = 100 * found.point.wrong(of).value, 100 * found.point.served.value
        mark = (f"chosen: threshold {found.point.threshold:g}", *spot)
    return Panel(
        title="What is served, against what is wrong",
        x_label=_wrong_label(of),
        y_label="served, % of all",
        x=(0.0, widest),
        y=(0.0, top),
        lines=lines,
        mark=mark,
    )


def _over(found: Recommendation, judged: Curve) -> Panel:
    of, budget = found.of, 100 * found.max_wrong
    shown = _shown(judged, of)
    left = 0.5 if found.point is None else min(0.5, max(found.point.threshold - 0.1, 0.0))
    points = [point for point in shown if point.threshold >= left]
    wrong = [(point.threshold, 100 * point.wrong(of).value) for point in points]
    band = [
        (point.threshold, 100 * point.wrong(of).low, 100 * point.wrong(of).high) for point in points
    ]
    top = 5 * budget
    lines = [_budget([(left, budget), (1.0, budget)], found)]
    confidence = f"{100 * judged.confidence:g} % interval"
    bands = []
    if points:
        lines.insert(0, Line("wrong", WRONG, wrong, 2.4))
        bands.append(Band(confidence, WRONG, band))
    mark = None
    if found.point is not None:
        mark = (
            f"chosen: threshold {found.point.threshold:g}",
            found.point.threshold,
            100 * found.point.wrong(of).value,
        )
    return Panel(
        title="What is wrong, over the threshold",
        x_label="threshold of the similarity",
        y_label=_wrong_label(of),
        x=(left, 1.0),
        y=(0.0, top),
        lines=lines,
        bands=bands,
        mark=mark,
    )


def _shown(curve: Curve, of: Of) -> list[Point]:
    least = _FEW if of == "hits" else 0
    return [point for point in curve.points if point.wrong(of).whole >= least]


def _budget(points: list[tuple[float, float]], found: Recommendation) -> Line:
    return Line(f"budget, {100 * found.max_wrong:g} %", INK, points, 1.0, dashed=True)


def _wrong_label(of: Of) -> str:
    return f"wrong, % of {'all' if of == 'all' else 'what is served'}"


def check_png() -> None:
    """Refuse to draw a PNG where that will not go, before anything is computed for it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("a PNG of the curve", extra="plots")


def png(drawn: Sequence[Panel]) -> bytes:
    """Draw side by side."""
    figure = import_module("matplotlib.figure").Figure(
        figsize=(6.2 * len(drawn), 5.0), layout="constrained"
    )
    for axes, panel in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        _fill(axes, panel)
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=110)
    return made.getvalue()


def _fill(axes: Any, panel: Panel) -> None:
    for band in panel.bands:
        columns = zip(*band.points, strict=True)
        axes.fill_between(*columns, color=band.colour, alpha=0.16, lw=0, label=band.label)
    for line in panel.lines:
        style = "--" if line.dashed else "-"
        axes.plot(
            *zip(*line.points, strict=True),
            color=line.colour,
            lw=line.width,
            ls=style,
            label=line.label,
        )
    if panel.mark is not None:
        label, x, y = panel.mark
        axes.plot([x], [y], "o", color=INK, mec="white", ms=10, label=label, zorder=6)
    axes.set(
        title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label, xlim=panel.x, ylim=panel.y
    )
    axes.grid(visible=True, alpha=0.35)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=2, frameon=False)


def svg(drawn: Sequence[Panel]) -> str:
    """Draw side by side."""
    width = _WIDTH * len(drawn)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" role="img" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{width}" height="{_HEIGHT}" fill="white"/>',
    ]
    for number, panel in enumerate(drawn):
        parts += [
            f'<g transform="translate({number * _WIDTH} 0)">',
            *_Pen(panel, number).draw(),
            "</g>",
        ]
    return "\n".join([*parts, "</svg>"])


class _Pen:
    """Draws one panel as SVG."""

    def __init__(self, panel: Panel, number: int) -> None:
        self._panel, self._clip = panel, f"panel-{number}"
        self._right, self._bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def draw(self) -> list[str]:
        panel = self._panel
        size = f'width="{self._right - _LEFT}" height="{self._bottom - _TOP}"'
        return [
            f'<clipPath id="{self._clip}"><rect x="{_LEFT}" y="{_TOP}" {size}/></clipPath>',
            _words((_LEFT + self._right) / 2, 24, panel.title, size=16),
            *self._axes(),
            f'<g clip-path="url(#{self._clip})" fill="none">',
            *(self._band(band) for band in panel.bands),
            *(self._line(line) for line in panel.lines),
            "</g>",
            f'<rect x="{_LEFT}" y="{_TOP}" {size} fill="none" stroke="{INK}" stroke-width="0.8"/>',
            *self._mark(),
            *self._legend(),
        ]

    def _at(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self._panel.x, self._panel.y
        across = _LEFT + (x - x0) / (x1 - x0) * (self._right - _LEFT)
        return across, self._bottom - (y - y0) / (y1 - y0) * (self._bottom - _TOP)

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self._at(*point) for point in points))

    def _axes(self) -> list[str]:
        panel, drawn = self._panel, []
        for x in _ticks(*panel.x):
            across, _ = self._at(x, 0)
            drawn += [
                _stroke(across, _TOP, across, self._bottom),
                _words(across, self._bottom + 18, f"{x:g}"),
            ]
        for y in _ticks(*panel.y):
            _, down = self._at(0, y)
            drawn += [
                _stroke(_LEFT, down, self._right, down),
                _words(_LEFT - 8, down + 4, f"{y:g}", anchor="end"),
            ]
        middle = (_TOP + self._bottom) / 2
        drawn.append(_words((_LEFT + self._right) / 2, self._bottom + 40, panel.x_label, size=14))
        turned = f'<g transform="rotate(-90 18 {middle:g})">'
        return [*drawn, turned, _words(18, middle, panel.y_label, size=14), "</g>"]

    def _band(self, band: Band) -> str:
        upper = [(x, high) for x, _, high in band.points]
        lower = [(x, low) for x, low, _ in reversed(band.points)]
        path = self._path([*upper, *lower])
        return f'<polygon points="{path}" fill="{band.colour}" fill-opacity="0.16"/>'

    def _line(self, line: Line) -> str:
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        return (
            f'<polyline points="{self._path(line.points)}" stroke="{line.colour}" '
            f'stroke-width="{line.width}" stroke-linejoin="round"{dashes}/>'
        )

    def _mark(self) -> list[str]:
        if self._panel.mark is None:
            return []
        _, x, y = self._panel.mark
        return [_dot(*self._at(x, y))]

    def _legend(self) -> list[str]:
        """Two columns below the axes."""
        panel = self._panel
        keys = [(line.label, _key(line)) for line in panel.lines]
        keys += [
            (
                band.label,
                f'<rect y="-9" width="26" height="12" fill="{band.colour}" opacity="0.16"/>',
            )
            for band in panel.bands
        ]
        if panel.mark is not None:
            keys.append((panel.mark[0], _dot(13, -4)))
        drawn = []
        for at, (label, key) in enumerate(keys):
            across = _LEFT + 20 + (at % 2) * 240
            down = self._bottom + 70 + (at // 2) * 24
            words = _words(34, 0, label, anchor="start")
            drawn.append(f'<g transform="translate({across} {down})">{key}{words}</g>')
        return drawn


def _key(line: Line) -> str:
    dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
    return (
        f'<line y1="-4" x2="26" y2="-4" stroke="{line.colour}" '
        f'stroke-width="{line.width}"{dashes}/>'
    )


def _words(x: float, y: float, text: str, *, size: int = 13, anchor: str = "middle") -> str:
    said = escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{said}</text>'


def _stroke(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="#d5d5d5" stroke-width="0.8"/>'


def _dot(x: float, y: float) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{INK}" stroke="white" stroke-width="1.5"/>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers from low to high, about six."""
    rough = (high - low) / _TICKS
    unit = 10.0 ** (len(f"{int(1 / rough)}") * -1 if rough < 1 else len(f"{int(rough)}") - 1)
    step = next(unit * by for by in (1, 2, 2.5, 5, 10, 20, 50, 100) if unit * by >= rough)
    first = int(-(-low // step))
    found = [round(number * step, 10) for number in range(first, first + 2 * _TICKS + 2)]
    return [tick for tick in found if low - 1e-9 <= tick <= high + 1e-9]


def page(
    title: str, told: Sequence[str], drawn: Sequence[Panel], table: Sequence[Sequence[str]]
) -> str:
    """Return a page that needs nothing but itself.

    Args:
        title: Of the page.
        told: What is recommended, a paragraph each.
        drawn: The panels.
        table: Rows; the first is the heading.
    """
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in table[0])
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table[1:]
    )
    paragraphs = "\n".join(f"<p>{escape(text)}</p>" for text in told)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: 0.2rem 0.9rem; border-bottom: 1px solid #ddd; }}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
{paragraphs}
{svg(drawn)}
<table>
<thead><tr>{heading}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""
