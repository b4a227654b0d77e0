"""`seg-perception scenes` writes what the folder-pair dataset reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.cli.main import main
from seg_perception.core.types import Size
from seg_perception.scenes import Drive, random_scene


def test_a_drive_is_written_as_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "drive"
    assert main(["scenes", "--out", str(out), "--frames", "3", "--size", "128x96", "--seed", "4", "--png"]) == 0
    drive = Drive(4, Size(128, 96))
    names = sorted(path.stem for path in (out / "images").iterdir())
    assert names == sorted(path.stem for path in (out / "labels").iterdir()) == ["000000", "000001", "000002"]
    for index, name in enumerate(names):
        frame = drive.frame(index)
        labels = cv2.imread(str(out / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(out / "images" / f"{name}.png"))
        np.testing.assert_array_equal(labels, frame.labels)
        np.testing.assert_array_equal(image[..., ::-1], frame.image)
    assert (out / "contact_sheet.png").is_file()
    assert "3 pictures of 128x96" in capsys.readouterr().out


def test_random_pictures_are_random_scenes(tmp_path: Path) -> None:
    assert main(["scenes", "--out", str(tmp_path), "--frames", "2", "--size", "128x96", "--seed", "9", "--random"]) == 0
    labels = cv2.imread(str(tmp_path / "labels" / "000001.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, random_scene(10, Size(128, 96)).labels)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--frames", "0"], "0 frames are not accepted"),
        (["--size", "20x20"], "20x20 is too small"),
        (["--size", "big"], "'big' is not accepted"),
        (["--size", "99999x99999"], "99999x99999 is too large"),
        (["--fps", "inf"], "fps inf is not accepted"),
    ],
)
def test_faults_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scenes", "--out", str(tmp_path / "x"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_scenes_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["scenes", "--out", str(tmp_path), "--frames", "1", "--size", "96x64"]
    assert main(command) == 0
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
