"""`dataset check`: every fault of a dataset at once, and what the dataset holds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.cli.main import main
from seg_perception.core.errors import DatasetError
from seg_perception.core.types import Size
from seg_perception.datasets.check import DatasetCheck, FaultKind, check_dataset, look_at
from seg_perception.datasets.registry import DatasetSettings, open_dataset


def make_sound(root: Path, count: int = 4) -> None:
    """Images of 8x4: the upper half sky (23), the lower half road (7); the first column unlabeled (0)."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    ids = np.full((4, 8), 7, np.uint8)
    ids[:2] = 23
    ids[:, 0] = 0
    for index in range(count):
        cv2.imwrite(str(root / f"images/{index}.jpg"), np.full((4, 8, 3), 100, np.uint8))
        cv2.imwrite(str(root / f"labels/{index}.png"), ids)


def spoil(root: Path) -> None:
    """One fault of each kind; the last sample has two."""
    content = (root / "images/0.jpg").read_bytes()
    (root / "images/0.jpg").write_bytes(content[: len(content) // 2])
    (root / "labels/1.png").write_bytes(b"not a picture")
    cv2.imwrite(str(root / "labels/2.png"), np.full((4, 8), 77, np.uint8))
    cv2.imwrite(str(root / "labels/3.png"), np.full((2, 8), 7, np.uint8))
    (root / "labels/4.png").unlink()
    (root / "images/5.jpg").write_bytes(b"")
    cv2.imwrite(str(root / "labels/5.png"), np.array([[78, 79, 7, 7]], np.uint8))


def check(root: Path, workers: int | None = None) -> DatasetCheck:
    return check_dataset(open_dataset(DatasetSettings("folder", root, mapping="cityscapes")), workers)


def test_a_sound_dataset_by_hand(tmp_path: Path) -> None:
    make_sound(tmp_path, 3)
    result = check(tmp_path)
    assert result.faults == ()
    assert result.samples == 3
    assert result.sizes == {Size(8, 4): 3}
    # each image: 7 columns x 2 rows of sky (class 7), as many of road (class 0), 4 pixels unlabeled
    assert result.pixels[[0, 7, 255]].tolist() == [42, 42, 12]
    assert result.images[[0, 7, 255]].tolist() == [3, 3, 3]
    assert result.shares()[[0, 7]].tolist() == [0.5, 0.5]


def test_all_faults_are_found_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sound(tmp_path, 7)
    spoil(tmp_path)
    status = main(
        ["dataset", "check", "--kind", "folder", "--root", str(tmp_path), "--mapping", "cityscapes", "--workers", "2",
         "--picture", str(tmp_path / "out/balance.png")]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert status == 1
    assert "7 faults" in printed
    for expected in (
        "no label file: 1",
        "unreadable image: 2",
        "unreadable labels: 1",
        "unknown label values: 2",
        "image and labels differ in size: 1",
        "label values 77 (32 pixels) are unknown",
        "label values 78 (1 pixels), 79 (1 pixels) are unknown",
        "3.png: 8x2, its image 8x4",
        "1.png: 13 bytes",
    ):
        assert expected in printed
    picture = cv2.imread(str(tmp_path / "out/balance.png"))
    assert picture is not None
    assert picture.shape[1] > 400


def test_several_threads_and_one_agree(tmp_path: Path) -> None:
    make_sound(tmp_path, 7)
    (tmp_path / "labels/1.png").write_bytes(b"not a picture")
    one, several = check(tmp_path, workers=1), check(tmp_path, workers=4)
    assert one.faults == several.faults
    assert [fault.kind for fault in one.faults] == [FaultKind.UNREADABLE_LABELS]
    assert (one.pixels == several.pixels).all()
    assert one.sizes == several.sizes


def test_a_long_list_is_cut_but_counted(tmp_path: Path) -> None:
    make_sound(tmp_path, 5)
    for index in range(5):
        (tmp_path / f"labels/{index}.png").write_bytes(b"")
    listed = check(tmp_path).fault_list(shown=2).splitlines()
    assert listed[0] == "unreadable labels: 5"
    assert listed[-1] == "  and 3 more"
    assert len(listed) == 4


def test_exit_status_of_a_sound_and_of_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sound(tmp_path)
    command = ["dataset", "check", "--kind", "folder", "--mapping", "cityscapes", "--workers", "1", "--root"]
    assert main([*command, str(tmp_path)]) == 0
    assert "no faults" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "nowhere")]) == 2
    assert "nowhere/images: no such folder" in capsys.readouterr().err
    assert main([*command, str(tmp_path), "--picture", str(tmp_path / "images")]) == 2
    printed = capsys.readouterr()
    assert "cannot write: there is a folder of that name" in printed.err
    assert not printed.out, "it is said before the work"


def test_ctrl_c_ends_the_check_without_a_traceback() -> None:
    arguments = ["dataset", "check", "--kind", "scenes", "--count", "100000", "--size", "64x48", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "seg_perception.cli.main", *arguments],
        env={**os.environ, "TQDM_MININTERVAL": "0.1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = b""
    while not re.search(rb"[1-9]\d*/100000", said):  # until the worker works
        more = process.stderr.read1()  # type: ignore[attr-defined]
        assert more, said
        said += more
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert rest.endswith(b"seg-perception dataset check: interrupted\n")
    assert b"Traceback" not in rest


def put_ids(root: Path, values: list[int]) -> Path:
    for index in range(3):
        for name, pixels in ((f"images/{index}.png", np.zeros((4, 8, 3))), (f"labels/{index}.png", np.zeros((4, 8)))):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name.startswith("labels"):
                pixels[:] = np.array(values)[np.arange(8) % len(values)]
            cv2.imwrite(str(root / name), pixels.astype(np.uint8))
    return root


@pytest.mark.parametrize(
    "values, mapping, doubts",
    [
        (
            [0, 255],
            "identity",
            [
                "one class only: every labeled pixel is 'road'",
                r"values {0, 255} only, .* 0 as 'road' and 255 as 'ignore'\. If 255 .* take the mapping 'bin",
            ],
        ),
        ([0, 1], "identity", ["values {0, 1} only, as in a binary mask: .* reads 0 as 'road' and 1 as 'sidewalk'"]),
        ([0, 255], "binary_road", []),
        ([0, 1], "binary_road", []),
        ([0, 1, 255], "identity", ["whose 255 is not labeled: .* reads 0 as 'road', 1 as 'sidewalk' and 255 as 'ign"]),
        ([0, 1, 255], "binary_road", ["whose 255 is not labeled: .* 1 as 'road' and 255 as 'road'"]),
        ([7], "cityscapes", [r"one class only: every labeled pixel is 'road' \(the label files hold 7\)"]),
        ([0, 4, 255], "cityscapes", [r"nothing is labeled: the mapping leaves out every pixel .*hold 0, 4, 255\)"]),
        ([0, 1, 7, 13, 255], "cityscapes", ["look like Cityscapes train ids.* reads values up to 33: .*_train_ids'"]),
        ([0, 1, 10, 13, 255], "cityscapes_train_ids", []),
        ([7, 8, 21, 23, 26, 255], "cityscapes", []),
        ([0, 1, 2, 255], "identity", []),
    ],
)
def test_what_is_hardly_meant_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[int], mapping: str, doubts: list[str]
) -> None:
    root = put_ids(tmp_path, values)
    result = check_dataset(open_dataset(DatasetSettings("folder", root, mapping=mapping)))
    assert result.faults == ()
    assert len(result.doubts()) == len(doubts), result.doubts()
    for doubt, expected in zip(result.doubts(), doubts, strict=True):
        assert re.search(expected, doubt), doubt
    status = main(["dataset", "check", "--kind", "folder", "--root", str(root), "--mapping", mapping])
    printed = capsys.readouterr().out
    assert status == (1 if doubts else 0)
    assert ("no faults, but is this what you mean?" in printed) == bool(doubts)


def test_a_mask_stored_as_equal_colors_is_doubted_as_a_gray_one(tmp_path: Path) -> None:
    root = put_ids(tmp_path, [0, 255])
    for path in (root / "labels").iterdir():
        cv2.imwrite(str(path), cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_GRAY2BGR))
    doubts = check_dataset(open_dataset(DatasetSettings("folder", root, mapping="identity"))).doubts()
    assert any("values {0, 255} only, as in a binary mask" in doubt for doubt in doubts), doubts


def test_files_left_out_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sound(tmp_path)
    (tmp_path / "labels" / "orphan.png").touch()
    (tmp_path / "images" / "notes.txt").touch()
    assert main(["dataset", "check", "--kind", "folder", "--root", str(tmp_path), "--mapping", "cityscapes"]) == 0
    printed = capsys.readouterr().out
    assert "left out, a label file without an image: 1: " in printed
    assert "notes.txt" in printed


def test_a_dataset_is_looked_at_before_long_work(tmp_path: Path) -> None:
    make_sound(tmp_path, 7)
    dataset = open_dataset(DatasetSettings("folder", tmp_path, mapping="cityscapes"))
    assert look_at(dataset) == []
    spoil(tmp_path)
    with pytest.raises(
        DatasetError, match=r"(?s): 7 faults; mend or remove these files:\n.*labels/4\.png, for .*4\.jpg"
    ):
        look_at(dataset)
    put_ids(tmp_path / "void", [255])
    with pytest.raises(DatasetError, match=r"void: nothing is labeled: .* choose another mapping or other files"):
        look_at(open_dataset(DatasetSettings("folder", tmp_path / "void", mapping="identity")))
    scenes = DatasetSettings("scenes", count=10**6)
    assert look_at(open_dataset(scenes)) == [], "scenes are not files"
