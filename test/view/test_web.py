"""The model in a page of its own (`make web`), in headless Chromium: the same labels as here."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg_perception.core.types import Size
from seg_perception.model import load
from seg_perception.scenes import random_scene

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in ("chromium", "chromedriver", "npm")),
        reason="no Chromium or npm here: apt install chromium chromium-driver npm",
    ),
]
SIZES = [Size(480, 352)] * 4 + [
    Size(640, 480),
    Size(960, 540),
    Size(1242, 375),
    Size(720, 960),
    Size(320, 240),
    Size(500, 400),
]


@pytest.fixture(scope="module")
def address(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("web")
    npm = ["npm", "ci", "--prefix", str(repository / "web"), "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(npm, check=True, timeout=300, capture_output=True)
    subprocess.run([sys.executable, str(repository / "web" / "build.py"), "--out", str(folder)], check=True, timeout=60)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_labels_are_those_of_the_package(address: str, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     f"--user-data-dir={tmp_path}"):  # fmt: skip
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        browser.set_script_timeout(300)
        browser.get(address)
        assert (
            browser.execute_async_script("window.ready.then(() => arguments[0]('ok'), e => arguments[0](e.message))")
            == "ok"
        )
        with load(engine="onnxruntime") as model:
            assert model.card.data_license in browser.find_element("id", "card").text
            rows = [compare(browser, model, random_scene(50 + index, size).image) for index, size in enumerate(SIZES)]
    finally:
        browser.quit()
    for size, (agreement, milliseconds) in zip(SIZES, rows, strict=True):
        print(f"{size}: {agreement:.4%} equal, {milliseconds:.0f} ms in the browser")
    assert len(rows) == 10
    assert all(agreement == 1.0 for agreement, _ in rows[:4])  # no resizing: the same bytes go in
    assert min(agreement for agreement, _ in rows) > 0.998  # OpenCV rounds its weights


def compare(browser: Any, model: Any, image: np.ndarray) -> tuple[float, float]:
    rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    answer = browser.execute_async_script(
        """
        const [data, width, height, done] = arguments;
        const rgba = Uint8ClampedArray.from(atob(data), c => c.charCodeAt(0));
        const text = (bytes) => btoa(Array.from(bytes, v => String.fromCharCode(v)).join(""));
        segment(rgba, width, height).then(
          a => done(JSON.stringify({ labels: text(a.labels), ms: a.milliseconds })), e => done(e.stack));
        """,
        base64.b64encode(rgba.tobytes()).decode(),
        image.shape[1],
        image.shape[0],
    )
    found = json.loads(answer)
    labels = np.frombuffer(base64.b64decode(found["labels"]), np.uint8).reshape(image.shape[:2])
    return float(np.mean(labels == model(image).labels)), float(found["ms"])
