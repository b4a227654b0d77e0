"""Where the files that ship beside the code are: config/, launch/, rviz layouts, weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

DEFAULT_MODEL = _PACKAGE / "weights" / "driving.onnx"
"""The shipped model: ONNX with its model card inside."""

DEFAULT_WEIGHTS = _PACKAGE / "weights" / "driving.safetensors"
"""The checkpoint that the shipped model was exported from, for training to start from."""


@cache
def share_path(relative: str = "") -> Path:
    """A file or folder of the package's share directory.

    In a source tree that is the repository root; once installed (pip or colcon) it is
    <prefix>/share/seg_perception, found by walking up from the code.

    Raises:
        FileNotFoundError: there is no such file; names the places that were searched.
    """
    roots = [_PACKAGE.parent, *(parent / "share" / "seg_perception" for parent in _PACKAGE.parents)]
    for root in roots:
        if (root / "package.xml").is_file() and (root / relative).exists():
            return root / relative
    raise FileNotFoundError(f"{relative!r} was not found under any of: {', '.join(map(str, roots))}")
