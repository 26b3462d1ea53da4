"""Pictures of a figure that moves."""

from __future__ import annotations

import numpy as np
import torch

from dlkit.callbacks import flow_drawing
from dlkit.callbacks.drawing import around, figure, latent_scatter, moving, pixels


def scene(x):
    canvas, axes = figure()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    axes.plot([0, 10], [0, 10], color="grey")
    return canvas, axes.scatter(x, [4, 5, 6]), axes.set_title(f"at {x[0]}")


def test_what_moves_is_drawn_where_it_is_on_what_stands_still():
    places = ([1, 2, 3], [3, 4, 5], [7, 2, 9])
    canvas, points, title = scene(places[0])

    def moves():
        for place in places:
            points.set_offsets(np.stack([place, [4, 5, 6]], 1))
            title.set_text(f"at {place[0]}")
            yield

    pictures = list(moving(canvas, [points, title], moves()))
    assert len(pictures) == 3
    for place, picture in zip(places, pictures, strict=True):
        np.testing.assert_array_equal(picture, pixels(scene(place)[0]))


def test_points_go_straight_on_from_layer_to_layer_under_its_title():
    clouds = np.array([[[-1.0, -1.0]], [[1.0, -1.0]], [[1.0, 0.5]]])
    pictures = list(flow_drawing.film(clouds, 2, (-2, 2, -2, 2)))
    found = []
    for picture in pictures:
        coloured = picture.astype(int).max(2) - picture.astype(int).min(2)  # all but the point is grey
        rows, columns = np.nonzero(coloured > 60)
        found.append([columns.mean(), -rows.mean()])
    ways = np.diff(found, axis=0)
    side = 2 * ways[0, 0]  # pixels of the first way, which is 2 long
    assert side > 100
    np.testing.assert_allclose(ways / side, [[0.5, 0], [0.5, 0], [0, 0.375], [0, 0.375]], atol=0.01)
    titles = [picture[:40] for picture in pictures]
    same = [[np.array_equal(one, other) for other in titles] for one in titles]
    layers = np.array([0, 0, 1, 1, 2])
    np.testing.assert_array_equal(same, layers[:, None] == layers)


def test_codes_of_a_single_example_or_of_one_dimension_are_drawn_as_well():
    for codes in (np.ones((1, 4)), np.ones((1, 1)), np.arange(3.0)[:, None], np.zeros((5, 3))):
        (axes, *_) = latent_scatter(codes, None, []).axes
        (points,) = axes.collections
        assert np.isfinite(points.get_offsets()).all() and len(points.get_offsets()) == len(codes)


def test_a_frame_around_a_single_point_has_a_size():
    assert around(torch.tensor([[2.0, 3.0]]), 0.5) == (1.0, 3.0, 2.0, 4.0)
