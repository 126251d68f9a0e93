# SPDX-License-Identifier: Apache-2.0
"""Line charts as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from medrecon.report.words import number

WIDTH, HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 40


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: for the legend.
        points: (x, y), finite.
        style: "a" or "b": colours of the style sheet.
        dots: draw a dot at each point as well.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: str = "a"
    dots: bool = False


def line_chart(title: str, x_label: str, y_label: str, series: list[Series], log_y: bool = False) -> Markup:
    """An accessible SVG; "" when no series has a point. ``log_y`` drops values that are not positive."""
    shown = [(s, _clean(s.points, log_y)) for s in series]
    shown = [(s, points) for s, points in shown if points]
    if not shown:
        return Markup("")
    xs = [x for _, points in shown for x, _ in points]
    ys = [y for _, points in shown for _, y in points]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_ticks = _log_ticks(min(ys), max(ys)) if log_y else _ticks(min(ys), max(ys))
    height = math.log10 if log_y else float
    y_low, y_high = height(y_ticks[0]), height(y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        u = (x - x_low) / (x_high - x_low)
        v = (height(y) - y_low) / (y_high - y_low)
        return _LEFT + u * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - v * (HEIGHT - _TOP - _BOTTOM)

    out = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
            WIDTH, HEIGHT, _describe(title, shown), title
        )
    ]
    for tick in y_ticks:
        y = at(x_low, tick)[1]
        out.append(Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>').format(_LEFT, y, WIDTH - _RIGHT))
        out.append(
            Markup('<text class="tick end" x="{:.1f}" y="{:.1f}">{}</text>').format(_LEFT - 7, y + 4, _short(tick))
        )
    for tick in _ticks(x_low, x_high, inside=True):
        x = at(tick, y_ticks[0])[0]
        out.append(
            Markup('<text class="tick mid" x="{:.1f}" y="{:.1f}">{}</text>').format(x, HEIGHT - 22, _short(tick))
        )
    out.append(
        Markup('<text class="axis mid" x="{:.1f}" y="{}">{}</text>').format(
            (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, x_label
        )
    )
    out.append(
        Markup('<text class="axis mid" transform="translate(12 {:.1f}) rotate(-90)">{}</text>').format(
            (HEIGHT - _BOTTOM + _TOP) / 2, y_label
        )
    )
    for s, points in shown:
        path = "L".join("{:.1f} {:.1f}".format(*at(*p)) for p in _thin(points, 400))
        out.append(Markup('<path class="line {}" d="M{}"/>').format(s.style, path))
        if s.dots or len(points) == 1:
            for p in _thin(points, 60):
                x, y = at(*p)
                tip = f"{s.name}: {number(p[1])} at {number(p[0])}"
                dot = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
                out.append(dot.format(s.style, x, y, tip))
    out.append(Markup("</svg>"))
    return Markup("").join(out)


def _describe(title: str, shown: list) -> str:
    ends = "; ".join(f"{s.name} from {number(p[0][1])} to {number(p[-1][1])}" for s, p in shown)
    return f"{title}: {ends}"


def _clean(points, log_y: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)]


def _thin(points: list, most: int) -> list:
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _ticks(low: float, high: float, inside: bool = False) -> list[float]:
    """Four to seven round numbers that enclose the range, or lie inside it."""
    span = max(high - low, abs(high) * 1e-6, 1e-9)
    power = 10 ** math.floor(math.log10(span))
    step = next(f * power for f in (0.1, 0.2, 0.5, 1, 2, 5) if span / (f * power) <= 6)
    if inside:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose the range; with 2 and 5 between when it is narrow."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    if last - first > 2:
        return [10.0**i for i in range(first, last + 1)]
    ticks = [f * 10.0**i for i in range(first, last) for f in (1, 2, 5)] + [10.0**last]
    start = max(i for i, t in enumerate(ticks) if t <= low * (1 + 1e-9))
    stop = min(i for i, t in enumerate(ticks) if t >= high * (1 - 1e-9))
    return ticks[start : max(stop, start + 1) + 1] if start + 1 < len(ticks) else ticks[-2:]


def _short(value: float) -> str:
    if abs(value) >= 10000 and float(value).is_integer():
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
