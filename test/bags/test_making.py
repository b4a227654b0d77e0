from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_helpers import contents, picture

from seg_perception.bags.making import FIRST_STAMP_NS, FolderDrive, SceneDrive, write_drive
from seg_perception.bags.messages import IMAGE, labels_of, rgb_of, stamp_ns_of
from seg_perception.bags.reader import BagReader
from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size

CAMVID = load_label_mapping("camvid")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images b, c, a (so the order of names differs from that of writing), with CamVid ids."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for index, name in enumerate("bca"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), picture(index)[:, :, ::-1])
        cv2.imwrite(str(tmp_path / "labels" / f"{name}.png"), np.full((48, 64), index + 3, np.uint8))
    return tmp_path


def test_a_folder_becomes_a_bag_with_mapped_truth(folder: Path) -> None:
    drive = FolderDrive(folder / "images", folder / "labels", CAMVID, fps=15.0)
    assert sum(1 for _ in write_drive(drive, folder / "drive.mcap")) == len(drive) == 3
    with BagReader(folder / "drive.mcap") as bag:
        found = [(m.topic.name, m.stamp_ns, bag.decode(m)) for m in bag.messages()]
    # frame i at i / 15 s, in whole nanoseconds
    stamps = [FIRST_STAMP_NS, FIRST_STAMP_NS + 66_666_667, FIRST_STAMP_NS + 133_333_333]
    assert [(name, stamp) for name, stamp, _ in found] == [(n, s) for s in stamps for n in ("/image", "/truth")]
    images = [rgb_of(m, IMAGE) for name, _, m in found if name == "/image"]
    for image, index in zip(images, (2, 0, 1), strict=True):  # names in order: a, b, c
        np.testing.assert_array_equal(image, picture(index))
    truths = [np.unique(labels_of(m, IMAGE)).tolist() for name, _, m in found if name == "/truth"]
    # CamVid 5 tree -> vegetation 5, 3 road -> 0, 4 pavement -> sidewalk 1
    assert truths == [[5], [0], [1]]


def test_the_same_folder_gives_the_same_bag(folder: Path) -> None:
    for name in ("one", "two"):
        list(write_drive(FolderDrive(folder / "images", None, None, 10.0), folder / f"{name}.mcap"))
    assert contents(folder / "one.mcap") == contents(folder / "two.mcap")
    assert {topic for topic, *_ in contents(folder / "one.mcap")} == {"/image"}


def test_every_kind_of_image_is_a_frame_and_the_rest_is_named(tmp_path: Path) -> None:
    for suffix in (".BMP", ".tif", ".webp", ".jpg"):
        (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(suffix.lower(), picture(0))[1].tobytes())
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._a.jpg").write_bytes(b"what macOS writes")
    drive = FolderDrive(tmp_path, None, None, 10.0)
    assert len(drive) == sum(1 for _ in drive) == 4
    assert drive.left_out == ("notes.txt",)


def test_an_unknown_label_value_leaves_no_bag(folder: Path) -> None:
    cv2.imwrite(str(folder / "labels" / "c.png"), np.full((48, 64), 77, np.uint8))
    with pytest.raises(DatasetError, match=r"c\.png: label values 77 \(3072 pixels\) are unknown"):  # 64 x 48 = 3072
        list(write_drive(FolderDrive(folder / "images", folder / "labels", CAMVID, 15.0), folder / "drive.mcap"))
    assert not list(folder.glob("drive*"))


def test_wrong_settings_are_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="label images need a mapping"):
        FolderDrive(folder / "images", folder / "labels", None, 15.0)
    for fps in (0, 1e-300):
        with pytest.raises(SettingsError, match=f"fps is {fps}"):
            FolderDrive(folder / "images", None, None, fps)
    with pytest.raises(DatasetError, match="no such folder"):
        FolderDrive(folder / "nothing", None, None, 15.0)


def test_a_scene_drive_is_reproducible_and_labeled() -> None:
    first, again = (list(SceneDrive(seed=3, size=Size(96, 64), fps=15.0, frames=2)) for _ in range(2))
    assert len(first) == 2
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.truth, b.truth)
        assert a.truth is not None
        assert a.truth.shape == (64, 96)
    assert first[1].stamp_ns - first[0].stamp_ns == 66_666_667


def test_a_scene_drive_tells_its_exact_camera(tmp_path: Path) -> None:
    drive = SceneDrive(3, Size(96, 64), 10.0, 2)
    assert 1.2 < drive.camera_height < 1.7
    out = tmp_path / "drive.mcap"
    frames = list(write_drive(drive, out))
    with BagReader(out) as bag:
        infos = [bag.decode(m) for m in bag.messages(["/camera_info"])]
    assert [stamp_ns_of(info) for info in infos] == [frame.stamp_ns for frame in frames]
    assert frames[0].camera is not None
    assert (infos[0].width, infos[0].height, infos[0].k[0]) == (96, 64, frames[0].camera.focal)
