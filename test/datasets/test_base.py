"""Reading image and label files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import FilePair, PairedFiles, files_in, read_ids, read_rgb

IDENTITY = load_label_mapping("identity")


def png(path: Path, width: int, height: int, depth: int, color_type: int, rows: bytes, palette: bytes = b"") -> Path:
    """A PNG written by hand, of kinds that OpenCV does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    middle = chunk(b"PLTE", palette) if palette else b""
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + end)
    return path


def write(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def test_images_are_rgb_whatever_the_file_holds(tmp_path: Path) -> None:
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    assert read_rgb(write(tmp_path / "red.png", red))[0, 0].tolist() == [255, 0, 0]
    assert read_rgb(write(tmp_path / "gray.png", red[..., 2])).tolist() == np.full((4, 6, 3), 255).tolist()
    assert read_rgb(write(tmp_path / "red.jpg", red))[0, 0, 0] > 240


def test_label_values_are_read_as_they_are(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 7], [33, 254, 255]], np.uint8)
    assert np.array_equal(read_ids(write(tmp_path / "ids.png", ids)), ids)


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_rgb(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError):
        read_ids(tmp_path / "none.png")


def test_what_is_no_image_or_half_an_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    whole = write(tmp_path / "whole.jpg", np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    for name, reason in (("empty.png", "none of JPEG"), ("text.jpg", "none of"), ("half.jpg", "ends early")):
        with pytest.raises(DatasetError, match=f"{name}: .*{reason}"):
            read_rgb(tmp_path / name)


def test_label_files_whose_values_a_decoder_would_change_are_refused(tmp_path: Path) -> None:
    # a 1-bit gray PNG of the values 0 and 1 is decoded as 0 and 255: "unlabeled" instead of class 1
    one_bit = png(tmp_path / "one_bit.png", 8, 1, 1, 0, b"\x00\xaa")
    assert cv2.imread(str(one_bit), cv2.IMREAD_UNCHANGED).max() == 255
    palette = png(tmp_path / "palette.png", 2, 1, 8, 3, b"\x00\x00\x01", palette=bytes((128, 64, 128, 244, 35, 232)))
    color = write(tmp_path / "color.png", np.zeros((2, 2, 3), np.uint8))
    deep = write(tmp_path / "deep.png", np.zeros((2, 2), np.uint16))
    lossy = write(tmp_path / "lossy.jpg", np.zeros((8, 8), np.uint8))
    for path, kind in (
        (one_bit, "1-bit 1-channel PNG"),
        (palette, "8-bit palette PNG"),
        (color, "8-bit 3-channel PNG"),
        (deep, "16-bit 1-channel PNG"),
        (lossy, "8-bit 1-channel JPEG"),
    ):
        with pytest.raises(
            DatasetError, match=f"{path.name}: .*{kind} is not accepted as a label image; an 8-bit gray"
        ):
            read_ids(path)


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
    for name in ("b.PNG", "a.jpg", "c.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in files_in(tmp_path, (".jpg", ".png"))] == ["a.jpg", "b.PNG"]
    with pytest.raises(DatasetError, match=r"no files that end in \.bmp"):
        files_in(tmp_path, (".bmp",))
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        files_in(tmp_path / "nowhere", (".jpg",))
