"""Values along an output as a line: inside its box, in order, and the highest on top."""

import re
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from headtrain.report.template import EDGE, HEIGHT, WIDTH, draw_along, say_along

VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(VALUES, min_size=2, max_size=8))
def test_the_line_stays_in_its_box_and_its_ends_are_the_bounds(values: list[float]) -> None:
    along = {(place + 1) / len(values): value for place, value in enumerate(values)}
    drawn = draw_along(along, (min(values), max(values)))
    listed = ElementTree.fromstring(drawn).find("polyline")
    assert listed is not None
    points = [tuple(map(float, one.split(","))) for one in listed.attrib["points"].split()]
    assert len(points) == len(values)
    assert all(EDGE <= x <= WIDTH - EDGE and EDGE <= y <= HEIGHT - EDGE for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert (points[0][0], points[-1][0]) == (EDGE, WIDTH - EDGE)
    heights = [y for _, y in points]
    if min(values) < max(values):
        assert heights[values.index(max(values))] == EDGE
        assert heights[values.index(min(values))] == HEIGHT - EDGE


def test_the_values_are_there_as_text() -> None:
    drawn = draw_along({0.5: -0.314, 1.0: 2.0}, (-1.0, 2.0))
    says = "value along the output: 50% -0.31, 100% +2.00"
    assert re.findall(r'aria-label="([^"]*)"', drawn) == [says]
    assert f"<title>{says}</title>" in drawn
    assert say_along({}) == ""


def test_one_value_is_no_line() -> None:
    assert draw_along({1.0: 2.0}, (0.0, 2.0)) == ""
    assert draw_along({}, (0.0, 0.0)) == ""
