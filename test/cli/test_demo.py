from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import START, STEP, picture, truth_of, write_bag, write_tiny_model

import seg_perception as sp
from seg_perception.bags import messages
from seg_perception.bags.messages import labels_of
from seg_perception.bags.reader import BagReader
from seg_perception.bags.scoring import BagScore
from seg_perception.bags.writer import BagWriter
from seg_perception.cli.main import main
from seg_perception.core.label_set import load_label_set
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.types import Size
from seg_perception.ros.demo.results import Scored, Summary, percentile_ms
from seg_perception.video import VideoReader

rclpy = pytest.importorskip("rclpy", reason="neither a sourced ROS 2 nor the rclpy wheels")

from sensor_msgs.msg import Image  # noqa: E402

from seg_perception.ros.context import ros_node  # noqa: E402

FILES = ("demo.mcap", "overlay.mp4", "contact_sheet.png", "summary.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels = red // 26; a 64x48 picture is the network's own size, so the answer is exact."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def demo(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """`seg-perception demo` in a process of its own, in this worker's ROS domain: nobody else takes that."""
    command = [sys.executable, "-m", "seg_perception.cli.main", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_demo_that_is_stopped_before_its_node_is_seen_says_so(model: Path, tmp_path: Path) -> None:
    stop, remarks = threading.Event(), list[str]()
    stop.set()
    drive = sp.DemoSettings(bag=write_bag(tmp_path / "in.mcap", [picture(0)]), model=model)
    assert sp.demo(tmp_path / "out", drive, stop=stop, on_remark=remarks.append) is None
    assert remarks[-1].startswith("interrupted; ")


def test_demo_in_python_is_the_command(tmp_path: Path, model: Path) -> None:
    bag = write_bag(tmp_path / "in.mcap", [picture(0), picture(1)], truths=[truth_of(picture(0)), truth_of(picture(1))])
    summary = sp.demo(tmp_path / "out", sp.DemoSettings(bag=bag, model=model))
    assert summary is not None
    assert summary.is_sound, summary.remarks
    assert (summary.session.published, summary.session.answered) == (2, 2)
    assert all((tmp_path / "out" / name).stat().st_size for name in FILES)
    with pytest.raises(sp.InputError, match="the demo would write its results over"):
        sp.demo(tmp_path / "out", sp.DemoSettings(bag=tmp_path / "out" / "demo.mcap", model=model))


def test_images_with_truth_are_all_driven_and_scored_exactly(tmp_path: Path, model: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(6):
        truth = truth_of(picture(i)).copy()
        truth[:12] = (truth[:12] + 1) % 10  # a quarter of the rows is another class than the model says
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), picture(i)[:, :, ::-1])
        cv2.imwrite(str(tmp_path / "labels" / f"{i}.png"), truth)
    out = tmp_path / "out"
    run = demo(
        "--images", tmp_path / "images", "--labels", tmp_path / "labels", "--mapping", "identity",
        "--model", model, "--out", out,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert all((out / name).stat().st_size for name in FILES)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"], summary["frames_unanswered"]) == (6, 6, 0)
    images = ("labels", "confidence", "drivable", "color", "overlay")
    assert summary["messages_out"] == dict.fromkeys(images, 6)
    assert summary["messages_with_unknown_stamp"] == 0
    assert summary["node"]["received"] == 6 + summary["node"]["of_them_warm_up"]
    assert summary["scores"]["frames"] == 6
    assert summary["scores"]["pixel_accuracy"] == 0.75
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]

    # the very number that `evaluate` gives for the same model and images
    evaluation = tmp_path / "evaluation.json"
    arguments = ["--dataset", "folder", "--root", tmp_path, "--mapping", "identity", "--model", model]
    assert main(["evaluate", *map(str, arguments), "--json", str(evaluation)]) == 0
    percent = json.loads(evaluation.read_text())["evaluations"][0]["percent"]
    assert round(100 * summary["scores"]["mean_iou"], 2) == percent["mean_iou"]
    assert f"mean IoU      {100 * summary['scores']['mean_iou']:.2f} %" in run.stdout

    with BagReader(out / "demo.mcap") as bag:
        topics = {topic.name: topic.count for topic in bag.topics if topic.count}  # none in meters: no camera info
        frames = [message.stamp_ns for message in bag.messages(["/image"])]
        numbers = ("/segmentation_node/latency_ms", "/segmentation_node/drivable_share")
        undated = (*numbers, "/diagnostics", "/segmentation_node/palette")
        for message in bag.messages(set(topics) - set(undated)):
            stamp = bag.decode(message).header.stamp
            assert message.stamp_ns == stamp.sec * 10**9 + stamp.nanosec
        for topic in numbers:
            assert [message.stamp_ns for message in bag.messages([topic])] == frames
        assert {message.stamp_ns for message in bag.messages(["/diagnostics"])} <= set(frames)
        (palette,) = bag.messages(["/segmentation_node/palette"])
        assert palette.stamp_ns == frames[0]
        assert palette.topic.qos.latched
    assert topics.pop("/diagnostics") > 0
    assert topics.pop("/segmentation_node/palette") == 1
    outputs = {f"/segmentation_node/{name}": 6 for name in images}
    assert topics == {"/image": 6, "/truth": 6, **outputs, **dict.fromkeys(numbers, 6)}
    with VideoReader(out / "overlay.mp4") as video:
        assert sum(1 for _ in video) == 6
        assert video.fps == pytest.approx(15.0, abs=0.01)
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape[1] > 5 * 400  # camera, overlay, labels, mask, truth, each 400 wide, and the legend
    assert (sheet != sheet[0, 0]).any(axis=2).mean() > 0.8  # most of it is pictures, not paper


def test_a_node_of_somebody_else_in_its_domain_is_no_part_of_the_demo(tmp_path: Path, model: Path) -> None:
    """Its answers would be taken for those of the demo's own node."""
    bag = write_bag(tmp_path / "in.mcap", [picture(0)])
    with ros_node("somebody_else") as other:
        other.create_publisher(Image, "/segmentation_node/labels", 1)
        run = demo("--bag", bag, "--model", model, "--out", tmp_path / "out")
    assert run.returncode == 2
    assert "2 nodes publish on /segmentation_node/labels in ROS domain" in run.stderr
    assert "unset ROS_DOMAIN_ID" in run.stderr


def test_photos_of_different_sizes_and_a_bad_one_are_driven_and_listed(tmp_path: Path, model: Path) -> None:
    photos = tmp_path / "photos # 100%"
    photos.mkdir()
    for name, size in (("a.PNG", Size(64, 48)), ("c.bmp", Size(96, 48)), ("d.png", Size(48, 80))):
        cv2.imwrite(str(photos / name), picture(0, size)[:, :, ::-1])
    (photos / "b.jpg").write_bytes(b"no picture")
    (photos / "notes.txt").touch()
    run = demo("--images", photos, "--model", model, "--out", tmp_path / "out")
    assert run.returncode == 1  # one was not driven
    assert "left out, no images: notes.txt" in run.stderr
    assert "1 images could not be driven:" in run.stderr
    assert "b.jpg" in run.stderr
    assert "2 frames of another size than the first were fitted into it" in run.stderr
    assert all((tmp_path / "out" / name).stat().st_size for name in FILES)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"]) == (3, 3)
    with VideoReader(tmp_path / "out" / "overlay.mp4") as video:
        # at 15 Hz the photos have the places 0, 2 and 3: the first stands where the bad one would have been
        assert [image.shape for image in video] == [(48, 64, 3)] * 4


def test_a_procedural_drive_runs_at_its_own_pace(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    run = demo("--frames", 5, "--size", "96x64", "--model", model, "--out", out, "--gif")
    assert run.returncode == 0, run.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames_in"] == 5
    node = summary["node"]
    assert node["received"] == sum(
        node[name] for name in ("published", "superseded", "rejected", "failed", "in_flight")
    )
    assert summary["frames_out"] + summary["frames_unanswered"] == 5
    assert summary["scores"]["frames"] == summary["frames_out"] > 0
    assert (out / "overlay.gif").read_bytes()[:6] == b"GIF89a"
    assert "real time x 1" in run.stdout
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["birdseye.png", "contact_sheet.png", "demo.mcap", "node.log", "overlay.gif", "summary.json"]
    )
    # from above: the image on the ground and the grid, 40 m of 0.1 m at two pixels each, and the overlay beside them
    bird = cv2.imread(str(out / "birdseye.png"))
    assert bird.shape == (800, 400 + 8 + 400 + 8 + 1200, 3)
    assert len(np.unique(bird[:, 408:808].reshape(-1, 3), axis=0)) > 3
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape[1] > 6 * 400  # with the view from above


def test_a_bag_of_compressed_images_without_truth_runs_and_says_so(tmp_path: Path, model: Path) -> None:
    bag = tmp_path / "drive.db3"
    with BagWriter(bag) as writer:
        writer.add_topic("/front/image/compressed", messages.COMPRESSED_IMAGE)
        for i in range(4):
            header = messages.header(START + i * STEP, "front")
            writer.write("/front/image/compressed", START + i * STEP, messages.compressed_png(picture(i), header))
    run = demo("--bag", bag, "--model", model, "--out", tmp_path / "out", "--frames", 3)
    assert run.returncode == 0, run.stderr
    assert "this drive has no ground truth" in run.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"], summary["scores"]) == (3, 3, None)
    with BagReader(tmp_path / "out" / "demo.mcap") as reader:
        assert reader.topic("/image/compressed").count == 3
        said = [reader.decode(m) for m in reader.messages(["/segmentation_node/labels"])]
    assert [m.header.frame_id for m in said] == ["front"] * 3
    np.testing.assert_array_equal(labels_of(said[2], messages.IMAGE), truth_of(picture(2)))


def write_stamped(path: Path, stamps: list[int]) -> Path:
    with BagWriter(path) as writer:
        writer.add_topic("/image", messages.IMAGE)
        for i, stamp in enumerate(stamps):
            image = messages.image(picture(i), messages.header(stamp, "camera"))
            writer.write("/image", START + i * STEP, image)
    return path


def test_a_drive_from_the_beginning_of_time_is_counted_whole(tmp_path: Path, model: Path) -> None:
    bag = write_stamped(tmp_path / "drive.mcap", [0, 1, 2, STEP])
    run = demo("--bag", bag, "--model", model, "--out", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"], summary["messages_with_unknown_stamp"]) == (4, 4, 0)
    with BagReader(tmp_path / "out" / "demo.mcap") as reader:
        assert [m.stamp_ns for m in reader.messages(["/segmentation_node/labels"])] == [0, 1, 2, STEP]


def test_a_drive_with_the_stamp_of_a_waking_frame_is_refused(tmp_path: Path, model: Path) -> None:
    bag = write_stamped(tmp_path / "drive.mcap", [START, START - 10 * 10**9])  # the first warm-up frame is 10 s earlier
    run = demo("--bag", bag, "--model", model, "--out", tmp_path / "out")
    assert run.returncode == 2
    assert f"an image has the stamp {START - 10 * 10**9} ns, which a warm-up frame had" in run.stderr


def test_a_node_that_cannot_start_is_shown_with_its_log(tmp_path: Path, model: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    bag = write_bag(tmp_path / "drive.mcap", [picture(0)])
    run = demo("--bag", bag, "--model", broken, "--out", tmp_path / "out", "--node-timeout", 60)
    assert run.returncode == 2
    assert "the node could not be configured" in run.stderr
    assert "a text that begins with 'no model'" in run.stderr
    assert not (tmp_path / "out" / "demo.mcap").exists()


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--labels", "x"], "labels and mapping belong together"),
        (["--labels", "x", "--mapping", "camvid"], "labels go with images"),
        (["--truth-topic", "/t"], "image topic and truth topic go with a bag"),
        (["--frames", "0"], "frames 0 is not accepted"),
        (["--rate", "0"], "rate 0.0 is not accepted"),
        (["--bag", "nothing.mcap"], "no bag at nothing.mcap"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_percentiles_are_of_the_nearest_rank() -> None:
    # of 1 to 10 ms the smallest that half the values do not exceed is 5; 95 % of 10 is 9.5, so the 10th
    values = [i / 1000 for i in range(10, 0, -1)]
    assert (percentile_ms(values, 50), percentile_ms(values, 95)) == (5.0, 10.0)


@pytest.mark.parametrize("source", ["out/demo.mcap", "out/../out/demo.mcap", "twin.mcap", "out"])
def test_the_bag_that_is_driven_is_never_overwritten(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    bag = write_bag(Path("out/demo.mcap"), [picture(0)])
    Path("twin.mcap").hardlink_to(bag)
    before = bag.read_bytes()
    assert main(["demo", "--bag", source]) == 2  # --out is out/ unless given
    assert "the demo would write its results over" in capsys.readouterr().err
    assert bag.read_bytes() == before
    assert [path.name for path in Path("out").iterdir()] == ["demo.mcap"]


def test_a_class_without_truth_has_no_iou_in_the_summary() -> None:
    from seg_perception.ros.demo.session import SessionReport  # needs rclpy

    label_set = load_label_set()
    matrix = ConfusionMatrix(len(label_set))
    matrix.add(np.array([[0, 0, 7]], np.uint8), np.array([[0, 8, 7]], np.uint8))  # one road pixel was called car
    scored = Scored(BagScore(matrix, 1, 0, 0), 0.5)
    summary = Summary("a drive", "lockstep", "3x1", "model", SessionReport(), scored, label_set, ())
    iou = json.loads(summary.to_json())["scores"]["iou"]
    assert {name: value for name, value in iou.items() if value is not None} == {"road": 0.5, "sky": 1.0}
    assert len(iou) == 10
