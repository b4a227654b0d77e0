"""The page in a real browser against the real node, a process of its own, on the demo's drive over real DDS."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_helpers import CHROMIUM, DRIVER, one, open_browser, pixels, screenshot, shown, until

rclpy = pytest.importorskip("rclpy", reason="no ROS here")

from sensor_msgs.msg import CameraInfo  # noqa: E402

from seg_perception.bags.making import SceneDrive  # noqa: E402
from seg_perception.core.types import Size  # noqa: E402
from seg_perception.ros.context import NodeProcess, ros_node  # noqa: E402
from seg_perception.ros.messages import build_message, encode_image  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="no Chromium here: apt install chromium chromium-driver"
    ),
    pytest.mark.slow,  # a browser, a node and a drive for a minute or two
]


class Driving:
    """Publishes the demo's drive round and round, five frames a second, stamps going on."""

    def __init__(self) -> None:
        drive = SceneDrive(17, Size(480, 352), 15.0, 12)
        self._frames, self.height = list(drive), drive.camera_height
        self._stop, self.standing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        from seg_perception.bags import messages

        with ros_node("drive") as node:
            images = node.create_publisher(type(encode_image(np.zeros((1, 1, 3), np.uint8), _header(0))), "image", 5)
            infos = node.create_publisher(CameraInfo, "camera_info", 5)
            count = shown = 0
            while not self._stop.wait(0.2):
                frame, count = self._frames[shown % len(self._frames)], count + 1
                shown += 0 if self.standing.is_set() else 1
                header = _header(1_600_000_000_000_000_000 + count * 200_000_000)
                height, width = frame.image.shape[:2]
                assert frame.camera is not None
                made = messages.camera_info(width, height, frame.camera.focal, header, frame.camera.center)
                info = build_message("sensor_msgs/msg/CameraInfo", {
                    "height": height, "width": width, "distortion_model": made.distortion_model,
                    "d": np.asarray(made.d), "k": np.asarray(made.k), "p": np.asarray(made.p),
                }, header)  # fmt: skip
                infos.publish(info)
                images.publish(encode_image(frame.image, header))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def _header(stamp_ns: int) -> Any:
    from std_msgs.msg import Header

    header = Header(frame_id="camera")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return header


@pytest.fixture(scope="module")
def driving() -> Iterator[Driving]:
    driving = Driving()
    yield driving
    driving.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with open_browser(tmp_path) as browser:
        yield browser


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_the_real_node_on_the_demos_drive(browser: Any, driving: Driving, tmp_path: Path) -> None:
    port = _free_port()
    arguments = ["--ros-args", "-p", f"view.port:={port}", "-p", "view.control:=true", "-p", "view.rate:=10.0",
                 "-p", "ground.source:=fixed", "-p", f"ground.height:={driving.height}"]  # fmt: skip
    profile = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE")
    assert profile is None or Path(profile).is_file()

    def listens() -> bool:
        node.check()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with NodeProcess(tmp_path / "node.log", arguments) as node:
        until(listens, "the node's page")
        browser.get(f"http://127.0.0.1:{port}/")
        until(lambda: shown(browser)[0] == "overlay", "a frame")
        until(lambda: one(browser, "#state").text == "active", "the state")
        until(lambda: "road" in one(browser, "#legend").text, "the legend")
        until(lambda: browser.find_elements("css selector", '#views [data-view="grid"]'), "the grid's button")
        until(lambda: "p50" in one(browser, "#latency").text, "latency")
        screenshot(browser, "node_desktop")
        for view in ("camera", "labels", "confidence", "mask", "grid", "overlay"):
            one(browser, f'#views [data-view="{view}"]').click()
            until(lambda view=view: shown(browser)[0] == view, view)
            screenshot(browser, f"node_{view}")

        one(browser, '#views [data-view="mask"]').click()
        driving.standing.set()  # the same street in every frame, so that only the threshold changes the mask
        until(lambda: shown(browser)[0] == "mask" and (pixels(browser) > 128).mean() > 0.1, "a mask with road")

        def white() -> float:
            """Once it stands still for some frames."""
            seen: list[float] = []

            def still() -> bool:
                number = shown(browser)[1]
                until(lambda: shown(browser)[1] > number, "the next frame")
                seen.append(float((pixels(browser) > 128).mean()))
                return len(seen) > 4 and max(seen[-4:]) - min(seen[-4:]) < 0.001

            until(still, "a mask that stands still")
            return seen[-1]

        usual = white()
        move = (
            "const s = document.querySelector('#sliders input[name=\"drivable.min_confidence\"]');"
            "s.value = arguments[0]; s.onchange({target: s});"
        )
        browser.execute_script(move, "1")
        until(lambda: one(browser, "#answer").text == "done", "the node takes it")
        until(lambda: white() < usual - 0.005, "only what is quite sure is left")
        browser.execute_script(move, "0.5")
        until(lambda: abs(white() - usual) < 0.001, "and back")
        driving.standing.clear()

        browser.execute_script("byId('answer').textContent = ''; byId('pause').click();")
        until(lambda: one(browser, "#answer").text == "done", "paused, and no frame is on its way any more")
        held = shown(browser)[1]
        counted = one(browser, "#status").text
        until(lambda: one(browser, "#status").text != counted, "the node goes on")
        assert shown(browser)[1] == held
        one(browser, "#step").click()
        until(lambda: shown(browser)[1] > held, "one frame more")
        number = shown(browser)[1]
        one(browser, "#keep").click()
        kept = until(lambda: list(browser.downloads.glob("*.zip")), "the kept frame")
        assert kept[0].name == f"frame_camera_{number}.zip"
        one(browser, "#pause").click()
        until(lambda: shown(browser)[1] > number, "it goes on")

        one(browser, "#transitions button").click()
        until(lambda: one(browser, "#state").text == "inactive", "deactivated")
        until(lambda: "no new frame" in one(browser, "#alarm").text, "stale frames are said")
        screenshot(browser, "node_stale")
        activate = (
            "return [...document.querySelectorAll('#transitions button')].find(b => b.textContent === 'activate')"
        )
        until(lambda: browser.execute_script(activate), "the way back").click()
        until(lambda: one(browser, "#state").text == "active", "active again")
        until(lambda: not one(browser, "#alarm").is_displayed(), "fresh frames")

    until(lambda: "Not connected" in one(browser, "#alarm").text, "the node's end is said")
    screenshot(browser, "node_lost")
    with NodeProcess(tmp_path / "again.log", arguments) as node:
        until(listens, "the node again")
        until(lambda: not one(browser, "#alarm").is_displayed(), "the page comes back by itself")
        until(lambda: shown(browser)[0] == "mask", "with the view that was chosen")
        browser.set_window_size(500, 1200)
        click = one(browser, "#views").find_element  # the grid's button comes with the first grid: the row is rebuilt
        until(
            lambda: click("css selector", '[data-view="overlay"]').click() or shown(browser)[0] == "overlay", "overlay"
        )
        width = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert width <= 0  # nothing sticks out to the side
        screenshot(browser, "node_phone")
