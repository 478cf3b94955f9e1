"""The figures of a report show the numbers that they are given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import ssdml_fast as sf
from ssdml_fast.report.charts import draw_confusion, draw_convergence, draw_sensitivity, draw_times
from ssdml_fast.report.maps import LEAST, draw_maps
from ssdml_fast.report.retrieval import CELL, FRAME, GAP, as_pictures, draw_retrieval
from ssdml_fast.report.style import CLASSES, RIGHT, WRONG


def test_frames_tell_right_from_wrong():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(30, 3)), rng.integers(3, size=30)
    found = sf.knn_graph(x, 4).indices
    hits = (labels[found] == labels[:, None]).sum(1)
    queries = np.array([hits.argmax(), hits.argmin()])
    pictures = rng.integers(256, size=(30, 8, 8, 3), dtype=np.uint8)
    figure = draw_retrieval(pictures, labels, queries, {"trained": found[queries]}, ("a", "b", "c"))
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    step = CELL + 2 * FRAME + GAP
    kinds = set()
    for row, query in enumerate(queries):
        for i, neighbor in enumerate(found[query]):
            top, left = row * step, step + 3 * GAP + i * step
            frame = "#" + bytes(canvas[top, left]).hex()
            assert frame == (RIGHT if labels[neighbor] == labels[query] else WRONG)
            kinds.add(frame)
            middle = canvas[top + FRAME + CELL // 2, left + FRAME + CELL // 2]
            np.testing.assert_array_equal(middle, pictures[neighbor, 4, 4])
    assert kinds == {RIGHT, WRONG}


def seen(colour, blindness):
    """sRGB of a colour as people see it who lack one kind of cones (Machado, Oliveira, Fernandes, 2009)."""
    matrix = {
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    }[blindness]
    linear = ((np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255 + 0.055) / 1.055) ** 2.4
    return 255 * (1.055 * np.clip(matrix @ linear, 0, 1) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("blindness", ["protanopia", "deuteranopia"])
def test_frames_and_classes_differ_for_colour_blind_people(blindness):
    def distance(one, other):
        return np.linalg.norm(seen(one, blindness) - seen(other, blindness))

    assert distance(RIGHT, WRONG) > 90
    assert distance("#2e9e4f", "#d3302f") < 90  # a green and a red that do not
    assert min(distance(one, other) for one, other in itertools.combinations(CLASSES, 2)) > 40


def test_pictures_are_turned_upright_and_floats_scaled():
    colour = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(as_pictures(colour, np.arange(len(colour)))[1, 2, 3], colour[1, :, 2, 3])
    pixels = np.array([[[[0.0, 0.0, 4.0]]], [[[2.0, 1.0, 0.0]]]], np.float32)
    grey = as_pictures(pixels - pixels.mean(0), np.arange(len(pixels)))
    assert grey[:, 0, :, 0].tolist() == [[0, 0, 255], [127, 63, 0]] and (grey[..., 0] == grey[..., 2]).all()
    assert as_pictures(np.ones((1, 1, 2, 2), np.float32), np.arange(1)).max() == 0
    assert as_pictures(np.zeros((4, 7)), np.arange(4)) is None


def record(number, **values):
    return {"validation": number, "score": number, "val_nmi": 0.1 * number, "val_recall@1": 0.2, **values}


def test_charts_draw_what_they_are_given(tmp_path):
    history = [record(0), *(record(e, loss=1 / e, round=(e + 1) // 2) for e in (1, 2, 3, 4))]
    figure = draw_convergence(
        {"one": history, "untrained alone": history[:1]}, {"one": history[4], "untrained alone": {}}
    )
    loss, nmi, _ = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[1, 1], [2, 1 / 2], [3, 1 / 3], [4, 1 / 4]])
    np.testing.assert_allclose(nmi.lines[0].get_ydata(), [0, 10, 20, 30, 40])
    np.testing.assert_allclose(nmi.lines[1].get_xydata(), [[4, 40]])  # the star

    unscored = [{"validation": i, "loss": 2.0 - i, "score": None, "val_nmi": None} for i in range(2)]
    (loss,) = draw_convergence({"one": unscored}, {"one": unscored[1]}).axes  # what was not measured has no panel
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[0, 2], [1, 1]])
    np.testing.assert_allclose(loss.lines[1].get_xydata(), [[1, 1]])

    figure = draw_sensitivity([(30, 0.5, 0.8), (40, 0.6, 0.9), (30, 0.7, 0.8)], chosen=40)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_xydata(), [[30, 60], [40, 60]])

    counts = np.array([[3, 1], [0, 0]])
    figure = draw_confusion({"title": counts}, ("cat", "dog"))
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[75, 25], [0, 0]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25"]

    figure = draw_times({"train": 3.0, "save": 1.0})
    assert [bar.get_width() for bar in figure.axes[0].patches] == [3, 1]
    assert [text.get_text() for text in figure.axes[0].texts] == ["3.00 s   75.0%", "1.00 s   25.0%"]


@pytest.mark.parametrize("n_classes", [2, 12, 30])
def test_maps_of_any_number_of_classes(tmp_path, n_classes):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % n_classes
    figure = draw_maps({"a": rng.normal(size=(40, 5))}, labels, tuple(f"class {c}" for c in range(n_classes)))
    figure.savefig(tmp_path / "map.png")
    assert len(figure.axes[0].collections) == n_classes
    assert len({tuple(points.get_facecolor()[0]) for points in figure.axes[0].collections}) == n_classes
    assert bool(figure.legends) == (n_classes <= 20)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ([f"class {c}" for c in range(n_classes)] if n_classes <= 20 else [])


@pytest.mark.parametrize(("n", "d"), [(LEAST, 5), (LEAST, 1), (40, 1)])
def test_the_smallest_maps(n, d):
    figure = draw_maps({"a": np.random.default_rng(0).normal(size=(n, d))}, np.arange(n) % 2, ("a", "b"))
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == n


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_an_embedding_that_is_one_point_is_mapped(value):
    figure = draw_maps({"a": np.full((40, 5), value, np.float32)}, np.arange(40) % 2, ("a", "b"))
    planes = [np.asarray(points.get_offsets()) for points in figure.axes[0].collections]
    assert [len(plane) for plane in planes] == [20, 20] and all(np.isfinite(plane).all() for plane in planes)


def test_maps_keep_clusters_together():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    embedding = 10 * np.eye(3)[labels] + rng.normal(size=(60, 3))
    figure = draw_maps({"a": embedding}, labels, ("a", "b", "c"))
    planes = [np.asarray(points.get_offsets()) for points in figure.axes[0].collections]
    centres = np.array([plane.mean(0) for plane in planes])
    for c, plane in enumerate(planes):
        distances = np.linalg.norm(plane[:, None] - centres, axis=2)
        assert (distances.argmin(1) == c).all()
