"""Finds the pictures of a source by the names that its annotations give them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from seg_perception.core.errors import DatasetError, first_of
from seg_perception.core.image_file import IMAGE_SUFFIXES
from seg_perception.datasets.convert.label_studio import without_upload_prefix
from seg_perception.datasets.patterns import composed

_IMAGE_FOLDERS: Final = ("images", "JPEGImages", "data", "img")
_NO_IMAGE_FOLDERS: Final = frozenset(
    {
        "SegmentationClass",
        "SegmentationClassPNG",
        "SegmentationClassVisualization",
        "SegmentationObject",
        "SegmentationObjectPNG",
        "SegmentationObjectVisualization",
        "ann",
        "labels",
        "masks",
    }
)


class Pictures:
    """The pictures of a source, by the names that its annotations give them."""

    def __init__(self, source: Path, images: Path | None) -> None:
        if images is not None and not images.is_dir():
            raise DatasetError(f"{images}: no such folder of pictures")
        root = source if source.is_dir() else source.parent
        self.root = images or root
        self._files: dict[str, Path] = {}
        for path in sorted(self.root.rglob("*")):
            parts = path.relative_to(self.root).parts
            hidden = any(part.startswith(".") for part in parts) or _NO_IMAGE_FOLDERS & set(parts[:-1])
            if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not path.stem.endswith("_mask"):
                self._files[composed("/".join(parts))] = path
        self._used: set[Path] = set()
        self._by_stem: dict[str, list[Path]] = {}
        for name, path in self._files.items():
            self._by_stem.setdefault(Path(name).stem, []).append(path)

    def find(self, name: str) -> Path | None:
        """The file of a name: below the folder, with whatever suffix, or anywhere by a name that is there once.

        Raises:
            DatasetError: several could be meant.
        """
        name = composed(name)
        stem = name.rpartition(".")[0] or name
        for candidate in (name, *(f"{folder}/{name}" for folder in _IMAGE_FOLDERS)):
            if candidate in self._files:
                return self._take(self._files[candidate])
        for start in ("", *(f"{folder}/" for folder in _IMAGE_FOLDERS)):
            same = [path for known, path in self._files.items() if known.rpartition(".")[0] == start + stem]
            if len(same) == 1:
                return self._take(same[0])
        for short in dict.fromkeys((Path(name).stem, Path(without_upload_prefix(name)).stem)):
            found = self._by_stem.get(short, [])
            if len(found) > 1:
                raise DatasetError(
                    f"{name}: several pictures could be meant: {first_of(found, 3)}; name their folder with --images"
                )
            if found:
                return self._take(found[0])
        return None

    def _take(self, path: Path) -> Path:
        self._used.add(path)
        return path

    def unused(self) -> list[str]:
        rest = [path for path in self._files.values() if path not in self._used]
        if not rest:
            return []
        return [f"pictures without an annotation, left out: {len(rest)}: {first_of(rest, 3)}"]
