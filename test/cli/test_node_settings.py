"""--params-file: the node's parameter file, read without ROS."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import picture, truth_of, write_bag, write_tiny_model

from seg_perception.bags.messages import labels_of
from seg_perception.bags.reader import BagReader
from seg_perception.cli.main import main
from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.image_file import read_labels, read_rgb
from seg_perception.core.visual import outline
from seg_perception.node_parameters import PictureSettings, picture_settings


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_says_what_no_file_says(repository: Path) -> None:
    assert picture_settings(repository / "config" / "segmentation.yaml") == picture_settings(None) == PictureSettings()


def test_cameras_have_their_own_settings_over_the_common_ones(tmp_path: Path) -> None:
    file = written(
        tmp_path / "own.yaml",
        """
        other_node: {ros__parameters: {speed: 3}}
        /**: {ros__parameters: {cameras: [front, left], overlay.opacity: 0.25, drivable: {min_confidence: 0.5}}}
        /car/segmentation_node:
          ros__parameters:
            use_sim_time: true
            drivable: {classes: [road, terrain], appear_frames: 3}
            left: {input: compressed, drivable: {appear_frames: 1, ignore_polygons: ["0, 1, 1, 1, 0.5, 0.8"]}}
        """,
    )
    settings = picture_settings(file)
    common = DrivableSettings(classes=("road", "terrain"), min_confidence=0.5)
    assert settings.drivable == replace(common, appear_frames=3)
    polygon = ((0.0, 1.0, 1.0, 1.0, 0.5, 0.8),)
    assert settings.camera_drivable == {"left": replace(common, ignore_polygons=polygon)}
    assert settings.opacity == 0.25


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    parameters = "{overlay: {opacity: 2}, drivable: {min_confidence: high, depth: 3}, drivabel: {appear_frames: 3}}"
    file = written(tmp_path / "own.yaml", f"segmentation_node: {{ros__parameters: {parameters}}}")
    with pytest.raises(SettingsError) as fault:
        picture_settings(file)
    for text in (
        "own.yaml",
        "drivable.min_confidence",
        "drivabel.appear_frames: no such parameter",
        "drivable.depth: no such parameter",
        "overlay.opacity: 2 is not accepted; accepted: a number from 0 to 1",
    ):
        assert text in str(fault.value)


@pytest.mark.parametrize(
    "cameras, message",
    [
        ("5", "cameras: 5 is not accepted; accepted: a list of texts"),
        ("front", "cameras: 'front' is not accepted; accepted: a list of texts"),
        ("[[1]]", r"cameras: \[\[1\]\] is not accepted; accepted: a list of texts"),
        ("[]", "cameras: the list is empty"),
        ("[front/left]", "cameras: 'front/left' is not accepted; a name starts with a letter"),
        ("[front, front]", "cameras: 'front' named more than once"),
    ],
)
def test_cameras_that_the_node_would_refuse_are_refused(tmp_path: Path, cameras: str, message: str) -> None:
    file = written(tmp_path / "own.yaml", f"/**: {{ros__parameters: {{cameras: {cameras}}}}}")
    with pytest.raises(SettingsError, match=f"faults in the parameters:\n  {message}"):
        picture_settings(file)


@pytest.mark.parametrize("text", ["", "drivable: {min_confidence: 0.5}", "other: {ros__parameters: {}}", "[1, 2]"])
def test_a_file_that_says_nothing_to_the_node_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"has no parameters for the node: a section '/\*\*:' or"):
        picture_settings(written(tmp_path / "own.yaml", text))


def test_it_needs_no_ros(repository: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from seg_perception.node_parameters import picture_settings\n"
        f"picture_settings(Path({str(repository / 'config' / 'segmentation.yaml')!r}))\n"
        "print(sorted({'rclpy', 'sensor_msgs', 'rcl_interfaces', 'rosbags'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_predict_and_bag_process_draw_the_mask_as_the_file_says(tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny.onnx"))
    # class 1 is sidewalk; appear_frames is for drives: a single picture has no frame before it
    parameters = "{drivable: {classes: [sidewalk], min_confidence: 0.25, appear_frames: 2}, overlay: {opacity: 0.0}}"
    file = written(tmp_path / "own.yaml", f"/**: {{ros__parameters: {parameters}}}")
    assert cv2.imwrite(str(tmp_path / "one.png"), picture(0)[:, :, ::-1])
    sure = picture(0)[..., 1] >= 64  # green is the tiny model's confidence: 64 / 255 = 0.251
    sidewalk = np.where((truth_of(picture(0)) == 1) & sure, 255, 0)
    assert sidewalk.any()

    options = ["--model", model, "--params-file", str(file)]
    assert main(["predict", str(tmp_path / "one.png"), "--out", str(tmp_path / "out"), *options]) == 0
    np.testing.assert_array_equal(read_labels(tmp_path / "out/drivable/one.png"), sidewalk)
    shown = read_rgb(tmp_path / "out/overlay/one.png")[:48, :64]  # below it is the legend
    np.testing.assert_array_equal(shown, outline(picture(0), sidewalk.astype(np.uint8), width=1))

    source = write_bag(tmp_path / "in.mcap", [picture(0), picture(0)])
    assert main(["bag", "process", str(source), str(tmp_path / "out.mcap"), *options]) == 0
    with BagReader(tmp_path / "out.mcap") as bag:
        messages = list(bag.messages(["/segmentation_node/drivable"]))
        first, second = (labels_of(bag.decode(m), m.topic.type) for m in messages)
    assert not first.any()  # the second drivable frame in a row is the first to count
    np.testing.assert_array_equal(second, sidewalk)
