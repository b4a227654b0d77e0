"""A headless Chromium, and what tests ask of the page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from waiting import wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def open_browser(folder: Path) -> Iterator[Any]:
    """A browser with an own profile and downloads in a folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    downloads = folder / "downloads"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run",
                     f"--user-data-dir={folder / 'profile'}"):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.downloads = downloads
    try:
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any], what: str) -> Any:
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    def found() -> Any:
        try:
            return condition()
        except (NoSuchElementException, StaleElementReferenceException) as error:  # not yet, or just, rebuilt
            rebuilt.append(error)
            return None

    rebuilt: list[Exception] = []
    return wait_until(found, what, lambda: rebuilt[-1:])


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def pixels(browser: Any) -> np.ndarray:
    """The picture as the browser shows it, uint8 [H, W, 3] BGR."""
    return cv2.imdecode(np.frombuffer(one(browser, "figure img").screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)


def shown(browser: Any) -> tuple[str | None, int]:
    figure = one(browser, "figure")
    return figure.get_attribute("data-view"), int(figure.get_attribute("data-number") or 0)


def screenshot(browser: Any, name: str) -> None:
    """Kept for looking where SEG_PERCEPTION_SCREENSHOTS names a folder."""
    if folder := os.environ.get("SEG_PERCEPTION_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))
