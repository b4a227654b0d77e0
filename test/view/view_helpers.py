"""What the tests of the page's server share."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
from waiting import PATIENCE_S

from seg_perception.core.label_set import load_label_set
from seg_perception.view.board import Slider, ViewFrame
from seg_perception.view.server import ViewServer

LOOK = {"type": "look", "cameras": [""], "view": "labels", "opacity": 0.5, "width": 320}


def view_frame(number: int, label: int = 0, camera: str = "") -> ViewFrame:
    labels = np.full((48, 64), label, np.uint8)
    labels[:12] = 7
    image = np.full((48, 64, 3), 90, np.uint8)
    confidence = np.full((48, 64), 204, np.uint8)
    mask = np.where(labels == 0, 255, 0).astype(np.uint8)
    return ViewFrame(
        camera, number, 1_000 + number, time.monotonic(), image, labels, confidence, mask, load_label_set(), "m"
    )


class FakeControls:
    """A source that notes what pages do."""

    def __init__(self) -> None:
        self.done: list[tuple[str, object]] = []

    def sliders(self) -> Sequence[Slider]:
        return [Slider("drivable.min_confidence", "how sure", 0.5, 0.0, 1.0)]

    def set_parameter(self, name: str, value: float) -> str:
        self.done.append((name, value))
        return "" if value <= 0.9 else "the node says no"

    def transitions(self) -> Sequence[str]:
        return ["deactivate"]

    def change_state(self, transition: str) -> str:
        self.done.append(("state", transition))
        return ""

    def pause(self, paused: bool) -> str:
        self.done.append(("pause", paused))
        return ""

    def step(self) -> str:
        self.done.append(("step", None))
        return ""


def get(server: ViewServer, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def converse(server: ViewServer, talk: Any, **options: Any) -> Any:
    """Run `talk(socket)` on a page's socket."""

    async def run() -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{server.port}/ws", max_msg_size=0, **options) as page,
        ):
            return await asyncio.wait_for(talk(page), PATIENCE_S)

    return asyncio.run(run())
