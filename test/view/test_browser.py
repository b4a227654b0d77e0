"""The page in a real browser (headless Chromium): views, the pixel under the pointer, pause, keep, a lost source."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser_helpers import CHROMIUM, DRIVER, one, open_browser, pixels, screenshot, shown, until

from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.scenes import random_scene
from seg_perception.video import VideoWriter
from seg_perception.view.board import Board, Slider, ViewFrame, ViewSettings
from seg_perception.view.server import ViewServer

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium here: apt install chromium chromium-driver"
)


class Source:
    """Offers frames of a rendered street on a thread, with a mask that follows a threshold."""

    def __init__(self, cameras: tuple[str, ...] = ("",)) -> None:
        self.threshold, self.state = 0.5, "active"
        self.board = Board("/segmentation_node", self)
        self.board.set_cameras(cameras)
        self._cameras = cameras
        self._scene = random_scene(7, Size(320, 192))
        self._stop, self.silent, self.offered = threading.Event(), threading.Event(), 0
        self._thread = threading.Thread(target=self._offer)
        self._thread.start()

    def _offer(self) -> None:
        confidence = np.full(self._scene.labels.shape, 180, np.uint8)
        while not self._stop.wait(0.05):
            if self.silent.is_set():
                continue
            self.offered = number = self.offered + 1
            self.board.set_status(
                {"state": self.state, "level": "OK", "silent_s": 0.5,
                 "latency_ms": {"p50": 20.0 + number % 5, "p95": 31.0},
                 "tables": {"engine": {"engine": "a test", "received": str(number)}}}
            )  # fmt: skip
            mask = np.where((self._scene.labels == 0) & (255 * self.threshold <= 180), 255, 0).astype(np.uint8)
            for camera in self._cameras:
                self.board.offer(
                    ViewFrame(camera, number, number, time.monotonic(), self._scene.image, self._scene.labels,
                              confidence, mask, load_label_set(), "driving", {"grid": self._scene.image[:64, :64]})
                )  # fmt: skip

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def sliders(self) -> list[Slider]:
        return [Slider("drivable.min_confidence", "how sure", self.threshold, 0.0, 1.0)]

    def set_parameter(self, name: str, value: float) -> str:
        self.threshold = min(value, 0.9)
        return "" if value <= 0.9 else "too sure"

    def transitions(self) -> list[str]:
        return ["deactivate"] if self.state == "active" else ["activate"]

    def change_state(self, transition: str) -> str:
        self.state = "inactive" if transition == "deactivate" else "active"
        return ""

    def pause(self, paused: bool) -> str:
        return ""

    def step(self) -> str:
        return ""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.close()


def test_a_visit(browser: Any, source: Source) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    with ViewServer(source.board, ViewSettings(rate=20, control=True)) as server:
        browser.get(server.url)
        until(lambda: shown(browser)[0] == "overlay", "a frame")
        assert one(browser, "#title").text == "/segmentation_node"
        until(lambda: one(browser, "#state").text == "active", "the state")
        until(lambda: "road" in one(browser, "#legend").text, "the legend")
        assert "road" in one(browser, "figure img").get_attribute("alt")
        screenshot(browser, "desktop")
        for view in ("camera", "labels", "confidence", "mask", "grid", "overlay"):
            one(browser, f'#views [data-view="{view}"]').click()
            until(lambda view=view: shown(browser)[0] == view, view)
        one(browser, '#views [data-view="labels"]').click()
        until(lambda: pixels(browser)[-8, 100].tolist() == [128, 64, 128], "road's color at the bottom")

        image = one(browser, "figure img")
        ActionChains(browser).move_to_element_with_offset(image, 0, image.size["height"] // 2 - 6).perform()
        until(lambda: "road, confidence 0.71, drivable" in one(browser, "#pixel").text, "the pixel's class")
        move = "const s = document.querySelector('#sliders input'); s.focus(); s.value = arguments[0]; s.onchange()"
        browser.execute_script(move, 0.8)
        until(
            lambda: one(browser, "#pixel").text.endswith("road, confidence 0.71"), "what is there now, of a still hand"
        )
        browser.execute_script(move, 0.5)

        one(browser, '#views [data-view="mask"]').click()
        until(lambda: shown(browser)[0] == "mask" and pixels(browser)[-8, 100].min() == 255, "the mask")
        browser.execute_script(move, 1)
        until(lambda: pixels(browser)[-8, 100].max() == 0, "the mask follows the threshold")
        assert one(browser, "#answer").text == "refused: too sure"
        until(
            lambda: one(browser, "#sliders input").get_attribute("value") == "0.9", "what the source has, not the hand"
        )
        marked = browser.execute_script("return document.querySelector('#status td:last-child')")
        until(lambda told=source.offered: int(one(browser, "#status tr:last-child").text.split()[1]) > told, "news")
        assert marked.is_displayed()  # still the same cell, or a text that is marked could not be copied
        browser.execute_script(  # a key that is held and a shaken slider are no flood, which ends the connection
            "window.link = page.socket; for (let k = 0; k < 99; k++) {"
            "byId('opacity').oninput({target: byId('opacity')});"
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})); }"
            "byId('answer').textContent = ''; byId('pause').click()"
        )
        until(lambda: one(browser, "#answer").text == "done", "the server still listens")
        before = shown(browser)[1]
        until(lambda: shown(browser)[1] > before, "and frames go on")
        assert browser.execute_script("return window.link === page.socket && page.connected")

        one(browser, "#transitions button").click()
        until(lambda: one(browser, "#state").text == "inactive", "deactivated")
        until(lambda: one(browser, "#transitions button").text == "activate", "the way back")

        browser.execute_script("byId('answer').textContent = ''; byId('pause').click()")
        until(lambda: one(browser, "#answer").text == "done", "the server holds, and no frame is under way any more")
        held, offered = shown(browser)[1], source.offered
        until(lambda: source.offered > offered + 5, "the source to go on")
        assert shown(browser)[1] == held
        assert not one(browser, "#alarm").is_displayed()  # paused is not stale
        one(browser, '#views [data-view="labels"]').click()
        until(lambda: shown(browser)[0] == "labels", "another view")
        assert shown(browser)[1] == held  # of the same frame
        one(browser, "#step").click()
        until(lambda: shown(browser)[1] > held, "one frame more")
        one(browser, "#keep").click()
        kept = until(lambda: list(browser.downloads.glob("*.zip")), "the kept frame")
        assert kept[0].name == f"frame_camera_{shown(browser)[1]}.zip"
        one(browser, "#pause").click()

        source.silent.set()
        until(lambda: one(browser, "#state").text.startswith("silent for"), "a state of long ago is none")
        until(lambda: "no new frame" in one(browser, "#alarm").text, "stale frames are said")
        screenshot(browser, "stale")
        source.silent.clear()
        until(lambda: not one(browser, "#alarm").is_displayed(), "and fresh ones")
        browser.execute_script("page.socket.onmessage = null; page.heard = performance.now() - 4000;")  # a dead link
        until(lambda: "Nothing heard" in one(browser, "#alarm").text, "silence is said")
        browser.execute_script("page.heard = performance.now() - 30000;")
        until(lambda: not one(browser, "#alarm").is_displayed(), "another link is taken")
        port = server.port
    until(lambda: "Not connected" in one(browser, "#alarm").text, "a lost connection is said")
    with ViewServer(source.board, ViewSettings(port=port, rate=20)):
        until(lambda: not one(browser, "#alarm").is_displayed(), "the page comes back by itself")
        number = shown(browser)[1]
        until(lambda: shown(browser)[1] > number, "and goes on")
        assert not one(browser, "#control").is_displayed()  # this one allows no changes
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [entry for entry in errors if not re.search("WebSocket|ERR_CONNECTION_REFUSED", entry["message"])] == []


def test_a_video_has_the_legends_colors(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg here")
    colors = [c.color for c in load_label_set().classes]
    with VideoWriter(tmp_path / "hd.mp4", 10) as video:  # of 720 lines and more browsers assume another matrix
        video.add(np.repeat(np.uint8([colors]), 720, axis=0).repeat(1280 // len(colors), axis=1))
    browser.get((tmp_path / "hd.mp4").as_uri())
    until(lambda: browser.execute_script("return document.querySelector('video').readyState >= 2"), "the video")
    seen = cv2.imdecode(np.frombuffer(one(browser, "video").screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
    row = seen[seen.shape[0] // 3, :, ::-1].astype(int)
    for index, color in enumerate(colors):
        assert np.abs(row[round((index + 0.5) * len(row) / len(colors))] - color).max() <= 4


def test_with_the_keyboard_on_a_phone(browser: Any) -> None:
    source = Source(("front", "left"))
    try:
        with ViewServer(source.board, ViewSettings(rate=20)) as server:
            browser.set_window_size(500, 900)
            browser.get(server.url)
            until(lambda: len(browser.find_elements("css selector", "figure[data-number]")) == 2, "two cameras")
            width = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert width <= 0  # nothing sticks out to the side
            screenshot(browser, "phone")
            until(lambda: one(browser, "#classes").text.lower() == "classes, front", "whose legend it is")
            second = browser.find_elements("css selector", "figure img")[1]
            browser.execute_script("arguments[0].dispatchEvent(new PointerEvent('pointermove'))", second)
            until(lambda: one(browser, "#classes").text.lower() == "classes, left", "that of the picture pointed at")
            body = one(browser, "body")
            body.send_keys("3")
            until(lambda: shown(browser)[0] == "labels", "the third view")
            body.send_keys(" ")
            until(lambda: one(browser, "#pause").get_attribute("aria-pressed") == "true", "pause")
            unnamed = browser.execute_script(
                "return [...document.querySelectorAll('button, input, img, canvas')].filter(e => "
                "!(e.textContent.trim() || e.alt || e.getAttribute('aria-label') || e.closest('label'))).length"
            )
            assert unnamed == 0  # a screen reader has a word for everything
    finally:
        source.close()
