from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import noise, picture, truth_of, write_bag, write_tiny_model
from hand_made import channel, mcap, message, schema

from seg_perception.cli.main import main


def test_process_evaluate_and_info_work_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_model(tmp_path / "tiny.onnx")
    pictures = [picture(i) for i in range(3)]
    source = write_bag(tmp_path / "in.mcap", pictures, truths=[truth_of(p) for p in pictures])
    out = tmp_path / "out.mcap"
    assert main(["bag", "process", str(source), str(out), "--model", str(model)]) == 0
    assert f"{out}: 3 of 3 frames segmented" in capsys.readouterr().out

    assert main(["bag", "info", str(out)]) == 0
    text = capsys.readouterr().out
    assert "18 messages, 0.133 s" in text  # 3 images, 3 truths, 3 x 4 outputs; two steps of 66.7 ms
    assert "begins 2023-11-14 22:13:20.123457 UTC (1700000000123456789 ns)" in text

    labels = ["--labels", "/segmentation_node/labels", "--truth", "/truth"]
    assert main(["bag", "evaluate", str(out), *labels]) == 0
    text = capsys.readouterr().out
    assert "3 frames matched by stamp; without a partner: 0 labels, 0 truth" in text
    assert "mean IoU          100.00 %" in text


def test_a_missing_or_damaged_bag_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bag", "info", str(tmp_path / "nothing.mcap")]) == 2
    assert "no bag at" in capsys.readouterr().err
    path = write_bag(tmp_path / "cut.mcap", [picture(0)])
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["bag", "info", str(path)]) == 2
    assert "'seg-perception bag recover' saves what is readable" in capsys.readouterr().err
    assert main(["bag", "recover", str(path), str(tmp_path / "saved.mcap")]) == 0
    assert "/image: 1 recovered" in capsys.readouterr().out


def test_names_in_a_file_cannot_write_over_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ESC [2J clears the screen, and a line end in a name would make a line that nobody wrote."""
    path = mcap(tmp_path / "a.mcap", schema(1, "x/msg/\x1b[2JY"), channel(1, 1, "/a\x1b[2J\n/image: 99"), message(1, 5))
    assert main(["bag", "info", str(path)]) == 0
    out = capsys.readouterr().out
    assert r"  /a\x1b[2J\n/image: 99        1  x/msg/\x1b[2JY  (reliable)" in out.splitlines()
    assert main(["bag", "recover", str(path), str(tmp_path / "saved.mcap")]) == 0
    assert r"/a\x1b[2J\n/image: 99: 1 recovered" in capsys.readouterr().out.splitlines()
    assert main(["bag", "process", str(path), str(tmp_path / "out.mcap")]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_recover_is_only_suggested_where_it_saves_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_bag(tmp_path / "whole.mcap", [noise(0)]).read_bytes()
    for content, words in (
        (b"", "was cut off before it was closed: "),
        (whole[:1000], "there is no whole message in it"),  # noise of 9 KB lies in one chunk
        (b"a film, not a bag", "is not an MCAP file, in spite of its name"),
    ):
        path = tmp_path / "bad.mcap"
        path.write_bytes(content)
        assert main(["bag", "info", str(path)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "bag recover" not in said
        assert main(["bag", "recover", str(path), str(tmp_path / "saved.mcap")]) == 2
        capsys.readouterr()


def test_a_bag_is_made_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    (tmp_path / "images").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), picture(i))
    arguments = [
        "bag",
        "make",
        "--images",
        str(tmp_path / "images"),
        "--out",
        str(tmp_path / "made.db3"),
        "--fps",
        "10",
    ]
    assert main(arguments) == 0
    assert "2 images on /image, 0 truth images on /truth" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "made.db3 exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
