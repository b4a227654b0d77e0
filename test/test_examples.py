"""The examples run, on pictures that are drawn here."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import START, STEP, write_bag

from seg_perception.core.types import Size
from seg_perception.scenes import Drive, random_scene
from seg_perception.video import VideoWriter

SIZE = Size(160, 96)


def run_example(file: Path, *arguments: object) -> str:
    """What the script prints, run as a program of its own name would be."""
    printed, before = io.StringIO(), sys.argv
    sys.argv = [file.name, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(file), run_name="__main__")
    finally:
        sys.argv = before
    return printed.getvalue()


def test_every_example_is_run_here(repository: Path) -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    names = [path.name for path in (repository / "examples").iterdir() if path.suffix in (".py", ".ipynb")]
    assert len(names) == 7
    assert [name for name in names if f'"{name}"' not in text] == []


def test_without_arguments_an_example_says_what_it_takes(repository: Path) -> None:
    for name in ("one_image.py", "own_pictures.py", "bag.py", "video.py", "several_cameras.py"):
        with pytest.raises(SystemExit, match=f"python examples/{name} "):
            run_example(repository / "examples" / name)


def test_one_image(repository: Path, tmp_path: Path) -> None:
    Image.fromarray(random_scene(1, SIZE).image).save(tmp_path / "street.png")
    said = run_example(repository / "examples" / "one_image.py", tmp_path / "street.png", tmp_path / "out")
    assert re.search(r"before the car: \w+, confidence \d\.\d\d", said)
    assert (tmp_path / "out" / "overlay" / "street.png").is_file()


def test_video(repository: Path, tmp_path: Path) -> None:
    drive = Drive(3, SIZE, 10.0)
    with VideoWriter(tmp_path / "drive.mp4", 10.0) as video:
        for index in range(4):
            video.add(drive.frame(index).image)
    lines = run_example(repository / "examples" / "video.py", tmp_path / "drive.mp4").splitlines()
    assert [line.split()[0] for line in lines] == ["0.00", "0.10", "0.20", "0.30"]
    assert float(lines[0].split()[2]) == 0.0  # the mask waits for three frames in a row
    assert float(lines[3].split()[2]) > 0.0


def test_several_cameras(repository: Path, tmp_path: Path) -> None:
    files = []
    for seed, size in ((1, SIZE), (2, SIZE), (3, Size(128, 128))):
        files.append(tmp_path / f"{seed}.png")
        Image.fromarray(random_scene(seed, size).image).save(files[-1])
    lines = run_example(repository / "examples" / "several_cameras.py", *files).splitlines()
    assert len(lines) == 4
    assert "128x128" in lines[2]
    assert lines[3].startswith("3 cameras in ")


def test_bag(repository: Path, tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in.mcap", [random_scene(seed, SIZE).image for seed in (1, 2)])
    said = run_example(repository / "examples" / "bag.py", source, tmp_path / "out.mcap")
    assert f"2 of 2 images segmented: {tmp_path / 'out.mcap'}" in said
    assert [line.split()[0] for line in said.splitlines()[1:]] == [str(START), str(START + STEP)]


OWN_NETWORK = '{"start": "driving", "frozen_stages": 2}'
SMALL_NETWORK = '{"name": "reference", "options": {"width": 0.125, "convolutions": [1, 1, 1, 1]}}'


@pytest.mark.timeout(600)  # a training, an export and an evaluation, however busy the machine is
@pytest.mark.usefixtures("quick_exports")
@pytest.mark.parametrize(
    "network", [SMALL_NETWORK, pytest.param(OWN_NETWORK, marks=pytest.mark.slow)], ids=["small", "own"]
)
def test_own_pictures(repository: Path, tmp_path: Path, network: str) -> None:
    pytest.importorskip("torch", reason="training needs torch")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for seed in range(5):
        scene = random_scene(seed, Size(224, 160))
        Image.fromarray(scene.image).save(tmp_path / "images" / f"{seed}.jpg")
        assert cv2.imwrite(str(tmp_path / "labels" / f"{seed}.png"), scene.labels)
    text = (repository / "examples" / "own_pictures.py").read_text(encoding="utf-8")
    assert OWN_NETWORK in text
    (tmp_path / "own_pictures.py").write_text(text.replace(OWN_NETWORK, network), encoding="utf-8")
    said = run_example(tmp_path / "own_pictures.py", tmp_path, 2)
    assert (tmp_path / "own.onnx").is_file()
    assert "mean IoU" in said
    assert len(list((tmp_path / "out" / "overlay").glob("*.png"))) == 5


def test_ros_subscriber(repository: Path) -> None:
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from builtin_interfaces.msg import Time
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image as ImageMessage
    from std_msgs.msg import Header, String

    from seg_perception.ros.context import await_discovery

    labels = np.zeros((48, 64), np.uint8)
    labels[:, 32:] = 7  # the left half is road, the right half sky
    sure = np.full((48, 64), 255, np.uint8)
    sure[36:] = 100  # of the lower half, the lower half is not sure

    def message(pixels: np.ndarray, second: int) -> ImageMessage:
        padded = np.pad(pixels, ((0, 0), (0, 3)), constant_values=9)
        header = Header(stamp=Time(sec=second, nanosec=5), frame_id="front")
        image = ImageMessage(header=header, height=48, width=64, encoding="mono8", step=67)
        image.data = padded.tobytes()
        return image

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("segmentation_node", context=context)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    palette = node.create_publisher(String, "~/palette", latched)
    palette.publish(String(data='{"classes": [{"id": 0, "name": "road"}, {"id": 7, "name": "sky"}]}'))
    publishers = {name: node.create_publisher(ImageMessage, f"~/{name}", 5) for name in ("confidence", "labels")}
    command = [sys.executable, str(repository / "examples" / "ros_subscriber.py"), "2"]
    with subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline, second = time.monotonic() + 60, 0
            while process.poll() is None and time.monotonic() < deadline:
                second += 1
                for name, publisher in publishers.items():
                    publisher.publish(message(sure if name == "confidence" else labels, second))
                time.sleep(0.2)
            said = process.communicate(timeout=1)[0]
        finally:
            process.kill()
            await_discovery(node)
            node.destroy_node()
            rclpy.shutdown(context=context)
    assert process.returncode == 0
    lines = said.splitlines()
    assert len(lines) == 2
    # half of the width is road, and half of the lower half's height is sure
    assert all(re.fullmatch(r"\d+\.000000005  front:  25\.0 % sure road", line) for line in lines)


def test_the_notebook_runs_and_says_what_it_shows(repository: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat and nbclient come with the wheels' environment")
    nbclient = pytest.importorskip("nbclient")
    shown = nbformat.read(repository / "examples" / "first_steps.ipynb", 4)
    fresh = nbformat.from_dict(shown)
    nbclient.NotebookClient(fresh, timeout=100, kernel_name="python3").execute()  # a fault in a cell raises

    def texts(notebook: object) -> list[str]:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]  # type: ignore[attr-defined]
        return [output.get("text") or output.data.get("text/plain", "") for output in outputs]

    def pictures(notebook: object) -> int:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]  # type: ignore[attr-defined]
        return sum("image/jpeg" in output.get("data", {}) for output in outputs)

    assert pictures(fresh) == pictures(shown) == 3
    assert any("road" in text for text in texts(fresh))
    assert (repository / "examples" / "first_steps.ipynb").stat().st_size < 100_000
