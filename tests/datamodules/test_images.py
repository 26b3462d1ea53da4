"""Images: folders of pictures, with and without classes, and every folder that cannot be used."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Images


def picture(seed, height=8, width=8, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def loose(tmp_path):
    """Twelve pictures without classes."""
    for number in range(12):
        save(tmp_path / f"{number:02}.png", picture(number))
    return tmp_path


@pytest.fixture
def classes(tmp_path):
    """Four pictures of each of three classes, the red value of the first pixel telling the class."""
    for index, name in enumerate(["ant", "bee", "cat"]):
        for number in range(4):
            array = picture(10 * index + number)
            array[0, 0, 0] = index
            save(tmp_path / name / f"{number}.png", array)
    return tmp_path


def ready(root, size=8, **arguments):
    data = Images(str(root), size, **arguments)
    data.setup()
    return data


def everything(data):
    return torch.cat([examples.x for examples in data.splits.values()])


def names(data):
    """The number that each picture of `loose` was made from, by split."""
    made = [torch.from_numpy(picture(number)).permute(2, 0, 1) for number in range(12)]
    return {
        name: [next(i for i, other in enumerate(made) if torch.equal(x, other)) for x in examples.x]
        for name, examples in data.splits.items()
    }


# Good folders --------------------------------------------------------------------------------------------------------


def test_every_picture_is_in_one_split_pixel_for_pixel(loose):
    found = names(ready(loose, test_size=0.25, val_size=2))
    assert {name: len(numbers) for name, numbers in found.items()} == {"train": 7, "val": 2, "test": 3}
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(12))


@pytest.mark.parametrize(("number", "sizes"), [(12, [10, 1, 1]), (3, [1, 1, 1]), (2, [1, 1])])
def test_a_tenth_is_held_out_for_validation_unless_another_number_is_given(tmp_path, number, sizes):
    for name in range(number):
        save(tmp_path / f"{name}.png", picture(name))
    data = ready(tmp_path)
    assert [len(data.splits[name].x) for name in ("train", "val", "test") if name in data.splits] == sizes
    assert "val" not in ready(tmp_path, val_size=0).splits


def test_the_splits_come_from_their_seed(loose):
    splits = [names(ready(loose, test_size=0.25, split_seed=seed)) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0]["test"] != splits[2]["test"]


def test_a_folder_without_classes_gives_no_labels(loose):
    data = ready(loose)
    assert data.num_classes is None
    assert data.class_names == ()
    assert all(examples.y is None for examples in data.splits.values())
    batch = next(data.batches("train"))
    assert batch.y is None
    assert batch.x.dtype == torch.float32
    assert 0 <= batch.x.min() < batch.x.max() <= 1


def test_folders_are_classes_in_alphabetical_order(classes):
    data = ready(classes, val_size=3)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.num_classes == 3
    for examples in data.splits.values():
        assert examples.y.dtype == torch.int64
        assert examples.y.tolist() == examples.x[:, 0, 0, 0].tolist()


def test_pictures_deeper_down_belong_to_the_first_folder(classes):
    save(classes / "bee" / "deep" / "down" / "x.png", np.full((8, 8, 3), 1, np.uint8))
    data = ready(classes)
    assert data.class_names == ("ant", "bee", "cat")
    assert torch.cat([examples.y for examples in data.splits.values()]).bincount().tolist() == [4, 5, 4]


def test_colour_and_grey(loose):
    for mode, channels in (("rgb", 3), ("grey", 1)):
        data = ready(loose, mode=mode)
        assert data.data_shape == (channels, 8, 8)
        assert everything(data).shape == (12, channels, 8, 8)
        assert everything(data).dtype == torch.uint8


def test_what_is_transparent_is_white(tmp_path):
    """And what is half transparent half as much."""
    for name, alpha in (("a", 0), ("b", 255), ("c", 51)):
        save(tmp_path / f"{name}.png", np.full((8, 8, 4), (200, 0, 0, alpha), np.uint8))
    colours = {tuple(x[:, 0, 0].tolist()) for x in everything(ready(tmp_path))}
    assert colours == {(255, 255, 255), (200, 0, 0), (244, 204, 204)}


def test_grey_is_the_luma_of_the_colours(tmp_path):
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))):
        save(tmp_path / f"{name}.png", np.full((8, 8, 3), colour, np.uint8))
    levels = everything(ready(tmp_path, mode="grey")).flatten(1).float().mean(1).sort().values
    assert levels.tolist() == pytest.approx([0.114 * 255, 0.299 * 255, 0.587 * 255], abs=1)


def test_a_grey_picture_has_three_equal_channels_as_rgb(tmp_path):
    for number in range(2):
        save(tmp_path / f"{number}.png", picture(number, channels=1))
    x = everything(ready(tmp_path))
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])
    assert {x[0, 0, 0, 0].item(), x[1, 0, 0, 0].item()} == {picture(n, channels=1)[0, 0] for n in range(2)}


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".jpg", ".JPEG", ".png", ".tif", ".webp"])
def test_every_format_that_is_named_can_be_read(tmp_path, suffix):
    smooth = np.add.outer(np.arange(8), np.arange(8)).astype(np.uint8) * 15
    for number in range(2):
        save(tmp_path / f"{number}{suffix}", smooth)
    x = everything(ready(tmp_path, mode="grey"))
    assert (x[:, 0].float() - torch.from_numpy(smooth).float()).abs().mean() < 6


def test_other_files_hidden_files_and_folders_are_passed_over(loose):
    (loose / "notes.txt").write_text("not a picture")
    (loose / ".DS_Store.png").write_bytes(b"not a picture")
    (loose / ".thumbnails").mkdir()
    (loose / ".thumbnails" / "0.png").write_bytes(b"not a picture")
    (loose / "folder.png").mkdir()
    assert len(everything(ready(loose))) == 12


def test_a_hidden_folder_can_be_the_root(tmp_path):
    for number in range(2):
        save(tmp_path / ".cache" / f"{number}.png", picture(number))
    assert len(everything(ready(tmp_path / ".cache"))) == 2


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 20), (20, 8), (16, 16), (17, 33), (5, 9), (8, 9)])
def test_cropping_gives_the_size_and_keeps_the_centre(tmp_path, height, width):
    """A bright disc in the middle of a dark picture stays in the middle, and the border stays dark."""
    rows, columns = np.mgrid[:height, :width]
    radius = min(height, width) / 4
    inside = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2 < radius**2
    for number in range(2):
        save(tmp_path / f"{number}.png", np.where(inside, 255, 0).astype(np.uint8))
    x = everything(ready(tmp_path, mode="grey", resize="crop"))[0, 0].double()
    assert x.shape == (8, 8)
    for direction in (0, 1):
        centre = (x.sum(1 - direction) * torch.arange(8)).sum() / x.sum()
        assert centre.item() == pytest.approx(3.5, abs=0.51)
    assert x[3:5, 3:5].min() > 100
    assert torch.cat([x[0], x[-1], x[:, 0], x[:, -1]]).max() < 60


def test_cropping_leaves_a_picture_of_the_right_size_alone(loose):
    assert names(ready(loose, resize="crop")) == names(ready(loose))


def test_two_pictures_are_enough(tmp_path):
    for number in range(2):
        save(tmp_path / f"{number}.png", picture(number))
    data = ready(tmp_path)
    assert {name: len(examples.x) for name, examples in data.splits.items()} == {"test": 1, "train": 1}


# Folders and settings that cannot be used ----------------------------------------------------------------------------


def refuse(root, message, kind=ValueError, **arguments):
    with pytest.raises(kind, match=message):
        ready(root, **arguments)


def test_a_picture_of_another_size_is_named(loose):
    path = save(loose / "05.png", picture(0, height=9, width=10))
    refuse(loose, rf"^{re.escape(str(path))} has 10x9 pixels and size is 8: set --data.size, or --data.resize crop$")


@pytest.mark.parametrize("damage", ["text", "empty", "cut short"])
@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".jpg", ".png", ".tif", ".webp"])
def test_an_unreadable_picture_is_named(tmp_path, damage, suffix):
    for number in range(3):
        path = save(tmp_path / f"{number}{suffix}", picture(number))
    content = path.read_bytes()
    path.write_bytes({"text": b"not a picture", "empty": b"", "cut short": content[: len(content) // 2]}[damage])
    refuse(tmp_path, rf"^{re.escape(str(path))} cannot be read as a picture \(.+\): remove or replace it$")


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.int32])
def test_a_picture_of_more_than_eight_bits_is_refused_and_not_cut_off(loose, kind):
    path = loose / ("05.png" if kind is np.uint16 else "05.tif")
    (loose / "05.png").unlink()
    save(path, (np.arange(64).reshape(8, 8) * 1000).astype(kind))
    refuse(loose, rf"^{re.escape(str(path))} has more than 8 bits a channel \(mode \S+\): save it with 8$", mode="grey")


def test_a_missing_folder_is_named(tmp_path):
    path = re.escape(str(tmp_path / "none"))
    message = rf"^there is no folder {path}: name the folder of your pictures with --data.root$"
    refuse(tmp_path / "none", message, FileNotFoundError)


def test_a_file_in_the_place_of_the_folder_is_named(loose):
    refuse(loose / "00.png", "^there is no folder .*00.png: name the folder of your pictures", FileNotFoundError)


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_folder_is_named(tmp_path, count):
    for number in range(count):
        save(tmp_path / f"{number}.png", picture(number))
    (tmp_path / "notes.txt").write_text("not a picture")
    refuse(tmp_path, rf"^{re.escape(str(tmp_path))} holds {count} pictures \(.*\.png.*\): give at least 2$")


def test_a_loose_picture_beside_class_folders_is_named(classes):
    path = save(classes / "loose.png", picture(0))
    refuse(classes, rf"^{re.escape(str(path))} lies beside class folders and has no class: move it into one, or remove")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "cmyk"}, "unknown mode 'cmyk': use 'rgb' or 'grey'"),
        ({"resize": "stretch"}, "unknown resize 'stretch': use 'none' or 'crop'"),
        ({"size": 0}, "size=0: give at least 1 pixel"),
        ({"test_size": 0.0}, "test_size=0.0: give a share between 0 and 1"),
        ({"test_size": 3}, "test_size=3: give a share between 0 and 1"),
        ({"val_size": 11}, "val_size=11 leaves nothing of the 11 training examples: lower it"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(loose, arguments, message):
    refuse(loose, f"^{message}$", **arguments)
