"""The node's own page (view.port), and `seg-perception view` on a running node, over real DDS and real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from meters_harness import FIXED, Driver
from nav_msgs.msg import OccupancyGrid
from node_harness import RELIABLE_INPUT, Running, image_message, running, values, wait_until
from sensor_msgs.msg import Image
from waiting import PATIENCE_S

from seg_perception.ros.viewer import view_node
from seg_perception.view.board import ViewSettings

LOOK = {"type": "look", "cameras": [""], "view": "mask", "opacity": 0.5, "width": 320}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


class Page:
    """A browser's side of the conversation, in one thread."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/ws"
        self.texts: list[dict[str, Any]] = []
        self.frames: list[tuple[dict[str, Any], np.ndarray]] = []
        self._loop = asyncio.new_event_loop()
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._talk(),), daemon=True)

    def __enter__(self) -> Page:
        self._thread.start()
        assert self._open.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._socket.close(), self._loop).result(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    async def _talk(self) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._address) as self._socket:
            self._open.set()
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.texts.append(json.loads(message.data))
                else:
                    size = int.from_bytes(message.data[:4], "big")
                    picture = cv2.imdecode(np.frombuffer(message.data[4 + size :], np.uint8), cv2.IMREAD_COLOR)
                    self.frames.append((json.loads(message.data[4 : 4 + size]), picture))
                    await self._socket.send_json({"type": "next", "camera": ""})

    def say(self, message: dict[str, Any]) -> None:
        asyncio.run_coroutine_threadsafe(self._socket.send_json(message), self._loop).result(PATIENCE_S)

    def last(self, kind: str) -> dict[str, Any] | None:
        return next((text for text in reversed(self.texts) if text["type"] == kind), None)

    def see(self, publish: Any, enough: Any) -> None:
        """Publish until the newest frame is as wanted."""

        def seen() -> bool:
            if self.frames and enough(self.frames[-1]):
                return True
            publish()
            time.sleep(0.1)
            return False

        wait_until(seen, "a frame as wanted", lambda: self.frames[-1:])


def road(confidence: int) -> np.ndarray:
    """Red 0 is road for the tiny model, green its confidence."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[..., 1] = confidence
    return picture


def drivable(frame: tuple[dict[str, Any], np.ndarray]) -> float:
    return float(frame[1].mean() / 255)


def converse_with(page: Page, node: Running) -> None:
    """Look, move the threshold and see the mask change, deactivate and activate."""
    count = iter(range(1, 10_000))
    publisher = node.peer.publisher(Image, "image")

    def publish() -> None:
        publisher.publish(image_message(road(180), next(count) * 100_000_000))

    page.say(LOOK)
    page.see(publish, lambda frame: drivable(frame) == 1.0)  # 180 / 255 is surer than 0.5
    head = page.frames[-1][0]
    assert head["shares"] == [{"name": "road", "color": "#804080", "share": 1.0}]
    page.say({"type": "set", "name": "drivable.min_confidence", "value": 0.8})
    page.see(publish, lambda frame: drivable(frame) == 0.0)
    page.say({"type": "set", "name": "drivable.min_confidence", "value": 5.0})
    wait_until(lambda: page.last("refused") is not None, "a refusal")
    assert "from 0 to 1" in page.last("refused")["reason"]  # type: ignore[index]
    wait_until(lambda: (page.last("status") or {})["status"].get("state") == "active", "active")
    assert page.last("status")["transitions"] == ["deactivate"]  # type: ignore[index]
    page.say({"type": "transition", "name": "deactivate"})
    wait_until(lambda: node.node.state == "inactive", "inactive")
    wait_until(lambda: page.last("status")["transitions"] == ["activate", "cleanup"], "transitions")  # type: ignore[index]
    page.say({"type": "transition", "name": "activate"})
    wait_until(lambda: node.node.state == "active", "active")


def see_the_grid(page: Page, driver: Driver) -> None:
    page.say({"type": "look", "cameras": [""], "view": "grid", "opacity": 0.5, "width": 640})

    def is_free_ahead(frame: tuple[dict[str, Any], np.ndarray]) -> bool:
        """8 m ahead in the middle: green (BGR) in row (40 - 8) * 20; the first grid may not have filled yet."""
        head, cells = frame
        shown = head["extras"] == ["grid"] and cells.shape == (800, 400, 3)
        return bool(shown and np.abs(cells[640, 200].astype(int) - (75, 158, 52)).max() < 40)

    page.see(driver.send, is_free_ahead)
    cells = page.frames[-1][1]  # 20 m ahead nothing is known: gray
    assert np.ptp(cells[400, 210].astype(int)) < 40


def test_the_nodes_own_page(tiny_model: Any) -> None:
    port = free_port()
    parameters = {"model": str(tiny_model), "view.port": port, "view.control": True, "view.rate": 50.0}
    with running(parameters | RELIABLE_INPUT) as node:
        node.wait_state("active")
        with Page(port) as page:
            converse_with(page, node)
    with pytest.raises(OSError):  # the page ends with the node
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_the_nodes_own_page_has_the_grid(tiny_model: Any) -> None:
    """Without any subscriber of it: a page that looks is one. Nothing is computed before."""
    port = free_port()
    parameters = {"model": str(tiny_model), "engine": "onnxruntime", "view.port": port, "view.rate": 50.0}
    with running(parameters | FIXED | RELIABLE_INPUT) as node:
        node.wait_state("active")
        driver = Driver(node)
        frames = "frames that nobody looks at"
        driver.send_until(lambda: int(values(node.report(": camera"))["grid_frames"]) >= 2, frames)
        assert "camera_pitch_deg" not in values(node.report(": camera"))  # no grid was made of the first
        with Page(port) as page:
            see_the_grid(page, driver)


def test_two_pages_that_want_the_same_end_no_node(tiny_model: Any) -> None:
    port = free_port()
    with running({"model": str(tiny_model), "view.port": port, "view.control": True}) as node:
        node.wait_state("active")
        with Page(port) as page:

            def ask_twice() -> None:  # on the executor: neither is made before both were asked for
                for _ in range(2):
                    page.say({"type": "transition", "name": "deactivate"})
                wait_until(lambda: [text["type"] for text in page.texts].count("done") == 2, "both answers")

            node.call(ask_twice)
            words = "transition deactivate is not possible while the node is inactive; possible: activate or cleanup"
            wait_until(lambda: node.peer.lines(words), "the word about the second")
            page.say({"type": "transition", "name": "activate"})
            node.wait_state("active")


@contextmanager
def page_on_topics() -> Iterator[Page]:
    """What `seg-perception view` serves on the running node."""
    stop, urls = threading.Event(), []
    settings = ViewSettings(rate=50, control=True)
    thread = threading.Thread(target=view_node, args=("segmentation_node", settings, stop, urls.append))
    thread.start()
    try:
        wait_until(lambda: bool(urls), "the page's address")
        with Page(int(urls[0].split(":")[2].strip("/"))) as page:
            wait_until(lambda: (page.last("status") or {}).get("cameras") == [""], "the camera")
            yield page
    finally:
        stop.set()
        thread.join(PATIENCE_S)


def test_a_page_on_the_nodes_topics(tiny_model: Any) -> None:
    with running({"model": str(tiny_model)} | RELIABLE_INPUT) as node:
        node.wait_state("active")
        with page_on_topics() as page:
            converse_with(page, node)


def test_a_page_on_the_nodes_topics_has_the_grid(tiny_model: Any) -> None:
    with running({"model": str(tiny_model), "engine": "onnxruntime"} | FIXED | RELIABLE_INPUT) as node:
        node.wait_state("active")
        driver, outputs = Driver(node), "/segmentation_node/"
        with page_on_topics() as page:
            see_the_grid(page, driver)
            broken = node.peer.publisher(OccupancyGrid, f"{outputs}drivable_grid")  # anybody may send one

            def send() -> None:
                broken.publish(OccupancyGrid())
                driver.send()

            shown = len(page.frames)
            page.see(send, lambda _: len(page.frames) > shown + 5)
            # the outline: blue (BGR) along the end of what is free
            page.see(send, lambda frame: (np.abs(frame[1].astype(int) - (255, 130, 70)).max(axis=2) < 60).any())
            assert node.node.count_subscribers(f"{outputs}drivable_grid") == 1
            page.say({"type": "look", "cameras": [], "view": "grid", "opacity": 0.5, "width": 640})
            topics = [f"{outputs}{name}" for name in ("drivable_grid", "free_space", "free_distance", "labels")]
            wait_until(lambda: not any(map(node.node.count_subscribers, topics)), "nobody wants them any more")
