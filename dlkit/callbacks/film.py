"""Films of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dlkit.processes import whole


def write_film(target: Path, pictures: Sequence[Image.Image], milliseconds: Sequence[int]) -> None:
    """Writes a GIF that loops, whole or not at all.

    Args:
        target: the file.
        pictures: of one size, in order, at least one.
        milliseconds: how long each is shown.
    """
    with whole(target) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=list(pictures[1:]), loop=0, duration=list(milliseconds)
        )
