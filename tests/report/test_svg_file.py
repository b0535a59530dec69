"""A chart as a file of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from dinobench.report.svg import Bar, Bars, Point, Series, chart
from dinobench.report.svg_file import FROM, TO, bars_to_svg, to_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn():
    lines = [
        Series('a<b & "c"', [Point(1, 2.0), Point(2, 3.5, 3.0, 4.0), Point(3, 3.0, 2.0, 4.0)]),
        Series("other", [Point(1, 1.0), Point(3, 2.0)], 9),
    ]
    return chart("entropy > 0", lines, "epoch", "nats")


def test_it_is_xml_with_every_line_dot_and_name_whatever_they_are_called():
    root = ElementTree.fromstring(to_svg(drawn()))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {'a<b & "c"', "other", "entropy > 0", "epoch", "nats"} <= set(texts)
    assert len(root.findall(f".//{SVG}circle")) == 5
    classes = [path.get("class") for path in root.iter(f"{SVG}path")]
    assert classes.count("line t0") == 2 and classes.count("line t1 d1") == 2 and classes.count("band t0") == 1
    assert root.get("aria-label") == "entropy > 0: nats over epoch"


def test_lines_without_a_path_are_dots_alone_and_their_legend_too():
    whole = drawn()
    dots = replace(whole, lines=[replace(line, path="", band="") for line in whole.lines])
    root = ElementTree.fromstring(to_svg(dots))
    assert {path.get("class") for path in root.iter(f"{SVG}path")} == {"grid", "axis"}
    assert len(root.findall(f".//{SVG}circle")) == 5 + 2


def test_nothing_stands_outside_the_picture_and_the_same_numbers_are_the_same_bytes():
    text = to_svg(drawn())
    assert text == to_svg(drawn())
    root = ElementTree.fromstring(text)
    _, _, width, height = map(float, root.get("viewBox").split())
    for place in root.iter(f"{SVG}text"):
        assert 0 <= float(place.get("x")) <= width and 0 <= float(place.get("y")) <= height


def test_bars_are_as_long_as_their_scores_and_say_their_names_values_and_intervals():
    first = Bar("a<b", "60.00, 95 % interval 50 to 70", "60.00", 0.0, 60.0, 50.0, 70.0, True, "")
    bars = Bars(
        "knn on cats & dogs", "top1", "0", "100 %", [first, Bar("c", "20.00", "20.00", 0, 20, None, None, False, "")]
    )
    text = bars_to_svg(bars)
    assert text == bars_to_svg(bars)
    root = ElementTree.fromstring(text)
    assert {"a<b", "60.00", "c", "20.00", "knn on cats & dogs"} <= {text.text for text in root.iter(f"{SVG}text")}
    wide = {rect.get("class"): float(rect.get("width")) / (TO - FROM) for rect in root.iter(f"{SVG}rect")}
    assert wide == {"track": 1.0, "bar best": pytest.approx(0.6), "bar": pytest.approx(0.2)}
    (line,) = root.iter(f"{SVG}path")
    low, high = (float(bound) for bound in re.findall(r"M(\S+) .*H(\S+)", line.get("d"))[0])
    assert (low - FROM, high - FROM) == pytest.approx((0.5 * (TO - FROM), 0.7 * (TO - FROM)), abs=0.06)
    _, _, width, height = map(float, root.get("viewBox").split())
    for place in root.iter(f"{SVG}text"):
        assert 0 <= float(place.get("x")) <= width and 0 <= float(place.get("y")) <= height
