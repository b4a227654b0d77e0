"""docs/api.md is what the docstrings say, and the docstrings are what the signatures say."""

from __future__ import annotations

import logging
import runpy
from pathlib import Path

import pytest

import seg_perception as sp


def test_the_page_is_current_and_its_docstrings_fit_the_signatures(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("griffe", reason="griffe makes the page; it comes with the checks of the wheels' environment")
    maker = runpy.run_path(str(repository / "docs" / "make_api.py"))
    with caplog.at_level(logging.WARNING):
        made = maker["page"]()
    assert not caplog.messages  # such as: an argument of the docstring that the function does not have
    assert made == (repository / "docs" / "api.md").read_text(encoding="utf-8"), "run: python docs/make_api.py"
    assert maker["public_names"]() == set(sp.__all__) - {"__version__"}
