"""Pictures: every color where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.errors import InputError
from seg_perception.core.grid import GridSettings
from seg_perception.core.label_set import LabelClass, LabelSet, load_label_set
from seg_perception.core.meters import MountSettings
from seg_perception.core.optics import Calibration
from seg_perception.core.types import UNLABELED, Segmentation
from seg_perception.core.visual import BirdsEye, colorize, contact_sheet, legend, outline, overlay

DRIVING = load_label_set("driving")
TWO = LabelSet("two", (LabelClass(0, "road", (200, 100, 0), drivable=True), LabelClass(1, "sky", (0, 50, 250))))


def test_colorize_is_the_palette() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colors = colorize(labels, DRIVING)
    np.testing.assert_array_equal(colors, DRIVING.palette[labels])
    assert colors[0, 0].tolist() == [128, 64, 128]  # road, in RGB order
    assert colors[15, 15].tolist() == [0, 0, 0]  # 255, unlabeled


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 4), (1, 3)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    labels = np.ones(shape, np.uint8)
    assert colorize(labels, TWO).tolist() == np.full((*shape, 3), (0, 50, 250)).tolist()
    assert overlay(np.zeros((*shape, 3), np.uint8), labels, TWO).shape == (*shape, 3)


def test_colorize_refuses_what_is_no_label_image() -> None:
    with pytest.raises(InputError, match=r"labels must be uint8 \[H, W\], got int64 \[2, 2\]"):
        colorize(np.zeros((2, 2), np.int64), TWO)
    with pytest.raises(InputError, match=r"got uint8 \[0, 2\]"):
        colorize(np.zeros((0, 2), np.uint8), TWO)


def test_overlay_by_hand() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    image.flags.writeable = False  # as a decoded message is
    labels = np.array([[0, 1, UNLABELED]], np.uint8)
    # a quarter of the color: 0.75 * 100 + 0.25 * (200, 100, 0) = (125, 100, 75);
    # 75 + 0.25 * (0, 50, 250) = (75, 87.5, 137.5), rounded to even; without a class: the image
    assert overlay(image, labels, TWO, 0.25).tolist() == [[[125, 100, 75], [75, 88, 138], [100, 100, 100]]]
    assert overlay(image, labels, TWO, 0.0).tolist() == image.tolist()
    assert overlay(image, labels, TWO, 1.0).tolist() == [[[200, 100, 0], [0, 50, 250], [100, 100, 100]]]


def test_overlay_refuses() -> None:
    image, labels = np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8)
    with pytest.raises(InputError, match=r"the image \[2, 3, 3\] and its labels \[3, 2\] differ in size"):
        overlay(image, labels.reshape(3, 2), TWO)
    for opacity in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=rf"opacity {opacity} is not accepted"):
            overlay(image, labels, TWO, opacity)


def test_outline_touches_only_the_border_of_the_mask() -> None:
    image, mask = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 255
    drawn = outline(image, mask, color=(1, 2, 3), width=1)
    painted = (drawn == (1, 2, 3)).all(axis=2)
    # the border of a 10 x 10 square: 4 * 10 - 4 corners counted twice
    assert painted.sum() == 36
    assert painted[5, 5:15].all()
    assert not image.any()


def test_names_without_letters_of_the_font_can_be_told_apart() -> None:
    def written(*names: str) -> list[np.ndarray]:
        classes = tuple(LabelClass(i, name, (9, 9, 9)) for i, name in enumerate(names))
        return np.split(legend(LabelSet("x", classes), height=20), len(names))

    road, walk = written("道路", "行道")
    assert not np.array_equal(road, walk)  # 0: ?? and 1: ??
    street, plain = written("Straße é", "Strasse e")
    assert np.array_equal(street, plain)


def test_legend_shows_each_class_color_and_marks_the_drivable() -> None:
    picture = legend(TWO, height=24)
    assert picture.shape[0] == 48
    for row, label_class in enumerate(TWO.classes):
        here = picture[row * 24 : (row + 1) * 24]
        assert (here == label_class.color).all(axis=2).sum() > 300
        assert (here < 60).all(axis=2).sum() > 20  # the ink of the name
    # a longer text in the first row: the mark of the drivable class
    assert legend(TWO).shape[1] > legend(TWO, drivable_mark="").shape[1]
    assert legend(DRIVING, height=16).shape[0] == 160


def test_contact_sheet_places_every_image() -> None:
    red, green = np.full((50, 100, 3), (255, 0, 0), np.uint8), np.full((100, 100, 3), (0, 255, 0), np.uint8)
    blue = np.full((25, 50, 3), (0, 0, 255), np.uint8)  # is doubled to the tiles' width
    sheet = contact_sheet([[red, green], [blue]], tile_width=100, gap=10)
    # width: 2 tiles and 3 gaps; height: the tallest of the first row, the second row, 3 gaps
    assert sheet.shape == (100 + 50 + 30, 200 + 30, 3)
    assert (sheet[10:60, 10:110] == (255, 0, 0)).all()
    assert (sheet[10:110, 120:220] == (0, 255, 0)).all()
    assert (sheet[120:170, 10:110] == (0, 0, 255)).all()


def test_contact_sheet_writes_captions_above_the_images() -> None:
    image = np.zeros((30, 200, 3), np.uint8)
    sheet = contact_sheet([[image, image]], [["Überholt — 3 m", "a caption far too long for its tile " * 5]], 200, 4)
    assert sheet.shape[0] == 22 + 30 + 8
    for left in (4, 208):
        caption = sheet[4:26, left : left + 200]
        assert (caption < 100).any()
    assert (sheet[4:26, 204:208] == 245).all()  # nothing runs into the gap between the tiles


def test_contact_sheet_refuses() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(InputError, match=r"at least one row"):
        contact_sheet([])
    with pytest.raises(InputError, match=r"at least one image in each row"):
        contact_sheet([[image], []])
    with pytest.raises(InputError, match=r"exactly one caption for each image"):
        contact_sheet([[image]], [["a", "b"]])


def test_the_bonnet_hides_nothing_from_above() -> None:
    """Rows 200 on are the car itself, whatever the network calls them."""
    settings = DrivableSettings(ignore_polygons=((0.0, 0.83, 1.0, 0.83, 1.0, 1.0, 0.0, 1.0),))
    calibration = Calibration(320, 240, "", (), (250.0, 0, 160, 0, 250.0, 120, 0, 0, 1), (0.0,) * 12)
    image, pictures = np.zeros((240, 320, 3), np.uint8), []
    for name in ("road", "car"):
        labels = np.full((240, 320), DRIVING.id_of("road"), np.uint8)
        labels[:140], labels[200:] = DRIVING.id_of("sky"), DRIVING.id_of(name)
        answer = Segmentation(labels, np.full_like(labels, 255))
        bird = BirdsEye(calibration, MountSettings("fixed", 1.5), GridSettings(), DRIVING, settings)
        pictures.append(bird.picture(image, answer, DrivableMasker(settings, DRIVING).mask(answer)))
    np.testing.assert_array_equal(*pictures)
