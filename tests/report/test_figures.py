"""What figures show: the plan of diagrams, labels that cover nothing, curves that break."""

from __future__ import annotations

import dataclasses
import itertools

import made_up
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitskip.report.charts import draw_accuracy
from bitskip.report.diagram import draw_architecture
from bitskip.report.diagram_plan import plan_diagram
from bitskip.report.labels import Rectangle, place_labels
from bitskip.report.runs import mean_curve
from bitskip.report.style import COLOURS, png_bytes
from bitskip.spec import named_models, named_spec


def test_plan_of_the_hybrid():
    rows = plan_diagram(named_spec("resnet14-hybrid-middle"))
    assert [row.label for row in rows] == ["stem", "stage 1", "stage 2", "stage 3", "head"]
    for row, precision in zip(rows[1:4], ("w1", "fp32", "w1"), strict=True):
        assert {box.precision for block in row.blocks for box in block.boxes} == {precision}
    arcs = [[len(block.arcs) for block in row.blocks] for row in rows[1:4]]
    assert arcs == [[0, 0], [1, 1], [0, 0]]
    projection = rows[2].blocks[0].arcs[0].projection
    assert projection is not None
    assert projection.title == "1×1 /2"
    assert rows[2].blocks[1].arcs[0].projection is None
    assert rows[2].blocks[0].boxes[0].title == "3×3 /2, 64 → 128"
    assert rows[2].blocks[0].boxes[0].detail == "BN · ReLU · dropout"


def test_styles():
    standard = plan_diagram(named_spec("resnet20"))[1].blocks[0]
    assert standard.boxes[1].detail == "BN"
    assert standard.arcs[0].after == "ReLU"
    per_conv = plan_diagram(named_spec("resnet14-w1a1"))[2].blocks[0]
    assert [(arc.first, arc.last, arc.after) for arc in per_conv.arcs] == [(0, 0, "RPReLU"), (1, 1, "RPReLU")]
    assert per_conv.boxes[0].detail == "threshold · BN"


def test_equal_blocks_are_drawn_once_unless_a_shortcut_differs():
    spec = named_spec("resnet101")
    stage3 = next(row for row in plan_diagram(spec) if row.label == "stage 3")
    assert [block.label for block in stage3.blocks] == ["block 1", "blocks 2 to 23: 22 × this"]
    cut = dataclasses.replace(spec, block_shortcuts={"stage3.block9": False})
    labels = [block.label for row in plan_diagram(cut) for block in row.blocks]
    assert "block 9" in labels
    assert "blocks 10 to 23: 14 × this" in labels


@pytest.mark.parametrize("name", [*named_models(), "resnet18-w1a1-none", "resnet14-binary-none-x0.25"])
def test_every_named_model_can_be_drawn(name):
    figure = draw_architecture(named_spec(name))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == named_spec(name).name
    assert "fp32" in texts  # the stem


def test_diagram_texts_stay_in_the_picture_and_apart():
    for name in ("resnet14-hybrid-all", "resnet14-w1a1", "resnet101"):
        figure = draw_architecture(named_spec(name))
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        width, height = figure.canvas.get_width_height()
        for box in boxes:
            assert 0 <= box.x0
            assert box.x1 <= width
            assert 0 <= box.y0
            assert box.y1 <= height
        rectangles = [Rectangle(box.x0, box.y0 + 1, box.x1, box.y1 - 1) for box in boxes]
        for one, other in itertools.combinations(rectangles, 2):
            assert one.overlap(other) < 4, name  # square pixels


@pytest.mark.parametrize("seeds", [1, 2])
def test_labels_of_the_accuracy_chart_do_not_overlap(seeds):
    for results in (made_up.quick(seeds), made_up.two_of_nine()):
        figure = draw_accuracy(results)
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        models = {row.model for row in results.rows}
        assert len(boxes) == 9 + len(models)
        rectangles = [Rectangle(box.x0, box.y0, box.x1, box.y1) for box in boxes]
        assert all(a.overlap(b) == 0 for a, b in itertools.combinations(rectangles, 2))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(60, 440), st.floats(60, 340)), min_size=1, max_size=12))
def test_labels_cover_neither_labels_nor_stand_outside(points):
    bounds = Rectangle(0, 0, 500, 400)
    places = place_labels(points, [(40.0, 11.0)] * len(points), bounds, point_radius=4)
    assert all(place.within(bounds) for place in places)
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(places, 2))


def test_mean_curve():
    nan = float("nan")
    assert mean_curve([[1.0, 2.0], [3.0, 4.0]]) == [2.0, 3.0]
    assert mean_curve([[1.0, 2.0], [3.0]]) == [2.0]
    assert str(mean_curve([[1.0, 2.0], [3.0, nan]])) == "[2.0, nan]"
    assert mean_curve([]) == []


def test_colours_are_all_different():
    light = [values[0] for values in COLOURS.values()]
    assert len(light) == len(set(light))


def test_pictures_are_large_enough_to_read():
    data = png_bytes(draw_architecture(named_spec("resnet14-full-all")))
    assert int.from_bytes(data[16:20], "big") >= 1600  # width in pixels
