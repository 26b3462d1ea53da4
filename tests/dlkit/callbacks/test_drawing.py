"""Pictures of a figure that moves."""

from __future__ import annotations

import numpy as np

from dlkit.callbacks.drawing import figure, moving, pixels


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
