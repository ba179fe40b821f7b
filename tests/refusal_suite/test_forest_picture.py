"""The forest plot: everything lies on its axis, whatever the figures are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from refusal_suite.forest_picture import ForestPanel, ForestRow, forest_picture

numbers = st.floats(-1e4, 1e4, allow_nan=False)


@st.composite
def rows(draw: st.DrawFn) -> ForestRow:
    if draw(st.booleans()):
        return ForestRow("d1", None, words="not tested")
    low, middle, high = sorted(draw(st.lists(numbers, min_size=3, max_size=3)))
    return ForestRow(
        "d1", middle, draw(st.sampled_from([None, low])), high, draw(st.sampled_from([None, True, False]))
    )  # fmt: skip


panels = st.integers(1, 6).flatmap(
    lambda count: st.lists(
        st.builds(
            ForestPanel,
            title=st.just("panel"),
            rows=st.lists(rows(), min_size=count, max_size=count),
            limit=st.none() | numbers,
        ),
        min_size=1,
        max_size=4,
    )
)


@given(panels, st.booleans())
def test_nothing_is_drawn_outside_the_picture(drawn: list[ForestPanel], wide: bool) -> None:
    picture = forest_picture("f", drawn, "title", "summary", wide=wide)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)
    assert size is not None
    width, height = float(size[1]), float(size[2])
    circles = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', picture)]
    rects = re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([-\d.]+)" height="([-\d.]+)"', picture)
    assert len(circles) == sum(row.estimate is not None for panel in drawn for row in panel.rows)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in circles)
    for rect in rects:
        x, y, w, h = map(float, rect)
        assert x >= -2 and y >= 0 and w > 0 and x + w <= width + 2 and y + h <= height
    assert picture.count('class="limit"') == sum(panel.limit is not None for panel in drawn)
    assert "nan" not in picture and "inf" not in picture


def test_a_bound_lies_on_the_side_of_the_limit_that_it_is_on() -> None:
    panel = ForestPanel("p", [ForestRow("d1", 1.0, None, 4.9, True), ForestRow("d2", 2.0, None, 5.1, False)], 5.0)
    picture = forest_picture("f", [panel], "title", "summary", wide=True)
    limit = float(re.search(r'd="M([\d.]+) [\d.]+V[\d.]+" class="limit"', picture)[1])
    ends = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="2.5" height="12" class="(\w+)">', picture)
    (good, _), (bad, _) = sorted(((float(x) + 1.25, style) for x, style in ends), key=lambda end: end[0])
    assert good < limit < bad
    assert [style for _, style in ends] == ["accent", "alarm"]
