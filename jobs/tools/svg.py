"""Pictures of a report as SVG text: lines over an axis, and bars in a row. No library, nothing to load.

Colours come from the page's style sheet (`STYLE`), which knows light and dark.
"""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 12, 40
POINTS = 600  # of a line at most: more than a screen shows
LABEL = 14  # height of a line of text

# Okabe and Ito's colours, which people with any colour vision tell apart; lighter ones on dark.
STYLE = """svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--dim)}
svg .label{paint-order:stroke;stroke:var(--back);stroke-width:3px}
.axis{stroke:var(--line);fill:none}.mark{stroke:var(--dim);stroke-dasharray:5 4}
.plot{fill:none;stroke-width:1.6}rect{stroke:var(--back);stroke-width:.7}
:root{--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#b58900;--c5:#56b4e9;--c6:#8a8a8a;--c7:#6a3d9a}
@media(prefers-color-scheme:dark){:root{--c0:#56b4e9;--c1:#ff9f4a;--c2:#3fd0a5;--c3:#e8a5cb;--c4:#f0e442;
--c5:#8fc7ff;--c6:#a8a8a8;--c7:#b79cf0}}"""
COLOURS = 8


@dataclass(frozen=True)
class Line:
    """A line of a chart: points in the order of x. None in y leaves a point out."""

    name: str
    points: Sequence[tuple[float, float | None]]


def chart(
    title: str,
    lines: Sequence[Line],
    x: str,
    y: str,
    marks: Iterable[tuple[str, float]] = (),
    from_zero: bool = False,
) -> str:
    """Lines over one pair of axes, with dashed horizontal `marks`. Empty when no line has a point."""
    drawn = [(number, line.name, _thin(line.points)) for number, line in enumerate(lines)]
    drawn = [(number, name, points) for number, name, points in drawn if points]
    if not drawn:
        return ""
    marks = list(marks)
    xs = [point[0] for _, _, points in drawn for point in points]
    ys = [point[1] for _, _, points in drawn for point in points] + [value for _, value in marks]
    x_ticks = ticks(min(xs), max(xs))
    y_ticks = ticks(0.0 if from_zero else min(ys), max(ys))

    def across(value: float) -> float:
        return LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return TOP + (y_ticks[-1] - value) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [_open(title, HEIGHT)]
    bottom = HEIGHT - BOTTOM
    for value in y_ticks:
        at = down(value)
        parts.append(f'<path class="axis" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in x_ticks:
        parts.append(
            f'<text x="{across(value):.1f}" y="{bottom + 17}" text-anchor="middle">{_number(value)}</text>'
        )
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{html.escape(x)}</text>')
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y)}</text>'
    )
    marks.sort(key=lambda mark: -mark[1])
    places = apart([down(value) - 4 for _, value in marks], LABEL, TOP + LABEL, bottom)
    for (name, value), at in zip(marks, places, strict=True):
        parts.append(f'<path class="mark" d="M{LEFT} {down(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="label" x="{WIDTH - RIGHT}" y="{at:.1f}" text-anchor="end">{html.escape(name)}</text>'
        )
    for number, name, points in drawn:
        path = "L".join(f"{across(at):.1f} {down(value):.1f}" for at, value in points)
        parts.append(
            f'<path class="plot" style="stroke:var(--c{number % COLOURS})" d="M{path}">'
            f"<title>{html.escape(name)}</title></path>"
        )
        if len(points) == 1:
            at, value = points[0]
            parts.append(
                f'<circle cx="{across(at):.1f}" cy="{down(value):.1f}" r="3" fill="var(--c{number % COLOURS})"/>'
            )
    return "".join([*parts, "</svg>", legend([(number, name) for number, name, _ in drawn])])


def bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[float, float, int, str]]]], unit: str) -> str:
    """A row of bars for each name; a bar is (start, length, colour, what it is), all rows over one axis."""
    ends = [start + length for _, parts in rows for start, length, _, _ in parts]
    if not ends:
        return ""
    scale = ticks(0.0, max(ends))
    left, height = 110, TOP + 26 * len(rows) + BOTTOM - 10

    def across(value: float) -> float:
        return left + value / scale[-1] * (WIDTH - left - RIGHT)

    parts = [_open(title, height)]
    bottom = height - BOTTOM + 10
    for value in scale:
        parts.append(f'<path class="axis" d="M{across(value):.1f} {TOP}V{bottom}"/>')
        parts.append(
            f'<text x="{across(value):.1f}" y="{bottom + 15}" text-anchor="middle">{_number(value)}</text>'
        )
    parts.append(f'<text x="0" y="{bottom + 15}">{html.escape(unit)}</text>')
    for number, (name, pieces) in enumerate(rows):
        top = TOP + 26 * number + 3
        parts.append(f'<text x="0" y="{top + 14}">{html.escape(name)}</text>')
        for start, length, colour, what in pieces:
            wide = max(across(start + length) - across(start), 0.5)
            parts.append(
                f'<rect x="{across(start):.1f}" y="{top}" width="{wide:.1f}" height="20" '
                f'fill="var(--c{colour % COLOURS})"><title>{html.escape(what)}</title></rect>'
            )
    return "".join([*parts, "</svg>"])


def legend(names: Sequence[tuple[int, str]]) -> str:
    """Coloured squares with names."""
    each = (
        f'<span><i style="background:var(--c{number % COLOURS})"></i>{html.escape(name)}</span>'
        for number, name in names
    )
    return f'<p class="legend">{"".join(each)}</p>'


def ticks(least: float, most: float) -> list[float]:
    """Round numbers, about five, whose first is not above `least` and whose last not below `most`."""
    if not most > least:
        least, most = least - (abs(least) or 1) * 0.05, least + (abs(least) or 1) * 0.05
    rough = (most - least) / 5
    step = 10 ** math.floor(math.log10(rough))
    step *= next(times for times in (1, 2, 5, 10) if rough <= times * step * (1 + 1e-9))
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def apart(places: Sequence[float], gap: float, first: float, last: float) -> list[float]:
    """Ascending places, pushed on until each two are `gap` apart, and back where they would pass `last`.

    Where there is no room for that, as far apart as there is room for.
    """
    if len(places) > 1:
        gap = min(gap, (last - first) / (len(places) - 1))
    moved: list[float] = []
    for place in places:
        moved.append(max(place, first, moved[-1] + gap if moved else first))
    for at in reversed(range(len(moved))):
        moved[at] = min(moved[at], last - (len(moved) - 1 - at) * gap)
    return moved


def _thin(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """At most POINTS points: the lowest and the highest of each stretch, so that no spike is lost."""
    there = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    if len(there) <= POINTS:
        return there
    size = math.ceil(2 * len(there) / POINTS)
    thin = []
    for start in range(0, len(there), size):
        stretch = there[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        thin += sorted(ends)
    return thin


def _open(title: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{html.escape(title)}</title>"
    )


def _number(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
