"""Reading image and label files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import files_in, read_rgb
from seg_perception.datasets.masks import read_mask
from seg_perception.datasets.pairs import FilePair, PairedFiles

IDENTITY = load_label_mapping("identity")


def write(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def test_images_are_rgb_whatever_the_file_holds(tmp_path: Path) -> None:
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    assert read_rgb(write(tmp_path / "red.png", red))[0, 0].tolist() == [255, 0, 0]
    assert read_rgb(write(tmp_path / "gray.png", red[..., 2])).tolist() == np.full((4, 6, 3), 255).tolist()
    assert read_rgb(write(tmp_path / "red.jpg", red))[0, 0, 0] > 240


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_rgb(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError):
        read_mask(tmp_path / "none.png")


def test_what_is_no_image_or_half_an_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    whole = write(tmp_path / "whole.jpg", np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    for name, reason in (("empty.png", "none of JPEG"), ("text.jpg", "none of"), ("half.jpg", "ends early")):
        with pytest.raises(DatasetError, match=f"{name}: .*{reason}"):
            read_rgb(tmp_path / name)


def _pair(folder: Path, image: np.ndarray, labels: np.ndarray) -> FilePair:
    return FilePair("a", write(folder / "image.png", image), write(folder / "label.png", labels))


def test_a_sample_is_an_image_with_mapped_labels(tmp_path: Path) -> None:
    pair = _pair(tmp_path, np.full((2, 3, 3), 9, np.uint8), np.array([[7, 8, 0], [255, 26, 11]], np.uint8))
    dataset = PairedFiles("mine", [pair], load_label_mapping("cityscapes"))
    sample = dataset.load(0)
    assert len(dataset) == 1
    assert dataset.label_set.name == "driving"
    assert sample.name == "a"
    assert sample.image.shape == (2, 3, 3)
    assert sample.labels.tolist() == [[0, 1, 255], [255, 8, 9]]  # road, sidewalk, ignored; ignored, car, background


def test_resizing_invents_no_classes_and_does_not_alias(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 9
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[::2] = 200
    pair = _pair(tmp_path, stripes, labels)
    small = PairedFiles("mine", [pair], IDENTITY, Size(30, 20)).load(0)
    assert small.image.shape == (20, 30, 3)
    assert np.all(small.image == 100)  # each pixel is the mean of a dark and a bright row
    assert small.labels[:, :15].max() == 0
    assert small.labels[:, 15:].min() == 9
    large = PairedFiles("mine", [pair], IDENTITY, Size(120, 80)).load(0)
    assert large.image.shape == (80, 120, 3)
    assert set(np.unique(large.labels)) == {0, 9}


def test_faults_of_a_sample_name_the_file(tmp_path: Path) -> None:
    sizes = _pair(tmp_path, np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(DatasetError, match=r"label\.png: size 2x3 differs from its image's, 3x2"):
        PairedFiles("mine", [sizes], IDENTITY).load(0)
    unknown = _pair(tmp_path, np.zeros((2, 3, 3), np.uint8), np.full((2, 3), 77, np.uint8))
    with pytest.raises(DatasetError, match=r"label\.png: label values 77 \(6 pixels\) are unknown"):
        PairedFiles("mine", [unknown], IDENTITY).load(0)


def test_a_dataset_without_images_cannot_be_built() -> None:
    with pytest.raises(DatasetError, match="dataset 'mine' has no images"):
        PairedFiles("mine", [], IDENTITY)


def test_files_are_listed_by_name_and_their_absence_is_an_error(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.txt", "._a.jpg", ".DS_Store"):
        (tmp_path / name).touch()
    assert [p.name for p in files_in(tmp_path, (".jpg", ".png"))] == ["a.jpg", "b.PNG"]
    with pytest.raises(DatasetError, match=r"no files that end in \.bmp"):
        files_in(tmp_path, (".bmp",))
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        files_in(tmp_path / "nowhere", (".jpg",))
