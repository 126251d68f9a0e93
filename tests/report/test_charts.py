# SPDX-License-Identifier: Apache-2.0
"""Charts: well-formed SVG whose curve goes where the numbers say."""

import xml.etree.ElementTree as ElementTree

import pytest

from medrecon.report.charts import HEIGHT, WIDTH, Series, _log_ticks, _ticks, line_chart


def points_of(svg):
    root = ElementTree.fromstring(str(svg))
    path = next(p for p in root.iter("path") if "line" in p.get("class"))
    return [tuple(map(float, p.split())) for p in path.get("d")[1:].split("L")]


def ticks_of(svg):
    root = ElementTree.fromstring(str(svg))
    found = [t for t in root.iter("text") if t.get("class") == "tick end"]
    return [(float(t.text), float(t.get("y")) - 4) for t in found]


def test_curve_lies_on_the_scale_of_its_ticks():
    svg = line_chart("T", "step", "dB", [Series("s", ((0, 10.0), (50, 20.0), (100, 15.0)))])
    points, ticks = points_of(svg), dict(ticks_of(svg))
    assert points[0][1] == pytest.approx(ticks[10.0], abs=0.2)
    assert points[1][1] == pytest.approx(ticks[20.0], abs=0.2)
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.2)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_logarithmic_axis():
    svg = line_chart("Loss", "step", "loss", [Series("s", ((0, 1.0), (1, 0.1), (2, 0.01), (3, 0.0)))], log_y=True)
    points = points_of(svg)
    assert len(points) == 3  # zero has no logarithm
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.2)


@pytest.mark.parametrize("ys", [(5.0, 5.0), (0.0, 0.0), (1e-9, 2e-9), (1e7, 3e7), (-3.0, 4.0), (1e6, 1e6 + 0.01)])
def test_any_range_gives_few_ticks_around_it(ys):
    ticks = _ticks(min(ys), max(ys))
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= min(ys) + 1e-9 and ticks[-1] >= max(ys) - 1e-9


@pytest.mark.parametrize("low, high", [(0.002, 0.1), (1e-8, 1.0), (0.5, 0.5), (1.0, 1.0), (3e-5, 4e-5)])
def test_logarithmic_ticks_enclose(low, high):
    ticks = _log_ticks(low, high)
    assert len(ticks) >= 2 and ticks[0] <= low * 1.0001 and ticks[-1] >= high * 0.9999


def test_nothing_to_draw():
    assert line_chart("T", "x", "y", [Series("s", ())]) == ""
    assert line_chart("T", "x", "y", [Series("s", ((0, float("nan")),))]) == ""


def test_one_point_is_a_dot():
    assert "<circle" in line_chart("T", "x", "y", [Series("s", ((3, 4.0),))])


def test_names_are_escaped_once():
    svg = line_chart('a "b" & <c>', "x", "y", [Series("s<t>", ((0, 1.0), (1, 2.0)), dots=True)])
    root = ElementTree.fromstring(str(svg))
    assert root.get("aria-label").startswith('a "b" & <c>: s<t> from 1')
    assert root.find("title").text == 'a "b" & <c>'


def test_long_curves_are_thinned_but_keep_their_ends():
    long = tuple((i, float(i % 7)) for i in range(10_000))
    points = points_of(line_chart("T", "x", "y", [Series("s", long)]))
    assert len(points) <= 400
    assert points[0][0] == pytest.approx(52, abs=0.2) and points[-1][0] == pytest.approx(WIDTH - 14, abs=0.2)
