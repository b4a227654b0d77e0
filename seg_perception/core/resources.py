"""Where the files that ship beside the code are: config/, launch/, rviz layouts, weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from seg_perception.core.errors import SettingsError

PACKAGE = Path(__file__).resolve().parents[1]

DEFAULT_MODEL = PACKAGE / "weights" / "driving.onnx"
"""The shipped model: ONNX with its model card inside."""

DEFAULT_WEIGHTS = PACKAGE / "weights" / "driving.safetensors"
"""The checkpoint that the shipped model was exported from, for training to start from."""


def model_file(name_or_path: str | Path | None = None) -> Path:
    """A model's file: by path, or a shipped one by its bare name ("driving", "reference"); None: the default one."""
    if name_or_path is None:
        return DEFAULT_MODEL
    path = Path(name_or_path).expanduser()
    shipped = PACKAGE / "weights" / f"{path}.onnx"
    bare = len(path.parts) == 1 and not path.suffix and not path.exists()
    return shipped if bare and shipped.is_file() else path


@cache
def share_path(relative: str = "") -> Path:
    """A file or folder of the package's share directory.

    In a source tree that is the repository root; once installed (pip or colcon) it is
    <prefix>/share/seg_perception, found by walking up from the code.

    Raises:
        FileNotFoundError: there is no such file; names the places that were searched.
    """
    roots = [PACKAGE.parent, *(parent / "share" / "seg_perception" for parent in PACKAGE.parents)]
    for root in roots:
        if (root / "package.xml").is_file() and (root / relative).exists():
            return root / relative
    raise FileNotFoundError(f"{relative!r} was not found under any of: {', '.join(map(str, roots))}")


def shipped_file(folders: str | Sequence[str], name_or_path: str | Path, called: str) -> Path:
    """A YAML file by its path, or a shipped one by its bare name ("folder" for config/train/folder.yaml).

    Args:
        folders: of the share directory, for example "config/train".
        name_or_path: a path ends in .yaml or .yml, holds a slash, or is there; anything else is a name.
        called: what it is, for the error.

    Raises:
        SettingsError: no shipped file of that name; lists those that there are.
    """
    path = Path(name_or_path)
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        return path.expanduser()
    shipped = {
        file.stem: file
        for folder in ([folders] if isinstance(folders, str) else folders)
        for file in sorted(share_path(folder).glob("*.yaml"))
        if not file.name.startswith(".")
    }
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    if path.is_file():
        return path
    raise SettingsError(f"no {called} {str(name_or_path)!r}; shipped: {', '.join(shipped)}; or give a .yaml file")
