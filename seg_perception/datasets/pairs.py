"""Datasets of image files paired with label files by patterns, read with one mapping: what all readers of files build.

A pattern is a path below the dataset's root, such as `images/*/*_rgb.png`. `*` stands for any part of a name,
`**` for any number of folders. What the wildcards of the image's pattern stood for is put, in order, into those
of the label's. A pattern may leave the suffix out: then any image format, or any mask format, will do.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.files import walk
from seg_perception.core.image_file import IMAGE_SUFFIXES
from seg_perception.core.label_set import LabelMapping, LabelSet, load_label_mapping
from seg_perception.core.resizing import resize_image, resize_labels
from seg_perception.core.types import UNLABELED, Size
from seg_perception.datasets.base import DatasetInfo, LeftOut, OpenRequest, Sample, read_rgb
from seg_perception.datasets.masks import MASK_SUFFIXES, Mask, read_mask

MASK_ENDINGS: Final = ("", "_mask", "-mask", "_label", "-label", "_labels", "_seg", "_gt", "_masks")
"""What a label file's name may have after its image's, where the pattern leaves the suffix out."""


@dataclass(frozen=True, slots=True)
class FilePair:
    """An image file and its label file.

    Attributes:
        name: unique in its dataset.
        labels: where it is; where it should be if it is not there.
        instead: what lies there in its place, for the error; empty if nothing does.
    """

    name: str
    image: Path
    labels: Path
    instead: str = ""


def pattern_fault(text: str) -> str | None:
    """What is wrong with a pattern; None if nothing is."""
    parts = text.split("/")
    if not text or text.startswith(("/", "~")) or ".." in parts or "" in parts:
        return f"pattern {text!r}: a path below the dataset's root is expected, like images/*"
    if any("**" in part and part != "**" for part in parts) or parts[-1] == "**":
        return f"pattern {text!r}: ** stands alone between slashes, and before the file's name"
    return None


@dataclass(frozen=True)
class Pattern:
    """A path with wildcards below a folder.

    Raises:
        SettingsError: an absolute path, one that leaves the folder, or `**` beside other letters.
    """

    text: str

    def __post_init__(self) -> None:
        if fault := pattern_fault(self.text):
            raise SettingsError(fault)

    @property
    def folder(self) -> str:
        """The folders before the first wildcard."""
        parts = self.text.split("/")[:-1]
        wild = next((i for i, part in enumerate(parts) if "*" in part), len(parts))
        return "/".join(parts[:wild])

    @cached_property
    def has_suffix(self) -> bool:
        return Path(self.text).suffix.lower() in (*IMAGE_SUFFIXES, *MASK_SUFFIXES)

    @property
    def wildcards(self) -> int:
        return len(re.findall(r"\*+", self.text))

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """Matches a relative path; one group for each wildcard. A suffix matches in upper and lower case."""
        built = ""
        stem, suffix = (
            (self.text[: -len(Path(self.text).suffix)], Path(self.text).suffix) if self.has_suffix else (self.text, "")
        )
        for piece in re.split(r"(\*\*/|\*)", stem):
            built += {"**/": "(.*/|)", "*": "([^/]*)"}.get(piece, re.escape(piece))
        return re.compile(built + (f"(?i:{re.escape(suffix)})" if suffix else ""))

    def match(self, relative: str, suffixes: Sequence[str]) -> tuple[str, ...] | None:
        """What the wildcards stand for; None if the path is none of this pattern's."""
        if not self.has_suffix:
            path = Path(relative)
            if path.suffix.lower() not in suffixes:
                return None
            relative = relative[: -len(path.suffix)]
        found = self.expression.fullmatch(relative)
        return found.groups() if found else None

    def filled(self, groups: Sequence[str]) -> str:
        """The path with the wildcards replaced."""
        rest = iter(groups)
        return re.sub(r"\*\*/|\*", lambda _: next(rest), self.text)


def composed(name: str) -> str:
    """A name with each accent in its letter: macOS stores the two apart, and what was written elsewhere does not."""
    return unicodedata.normalize("NFC", name)


def _walk(folder: Path) -> Iterator[str]:
    """Every file below a folder, relative to it, by name; links are followed once, dot files are no data."""
    seen = set()
    for current, folders, files in walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        inside = Path(current).relative_to(folder).as_posix()
        for file in sorted(files):
            if not file.startswith("."):
                yield file if inside == "." else f"{inside}/{file}"


def find_pairs(
    images: tuple[Path, Pattern],
    labels: tuple[Path, Pattern],
    name: str,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> tuple[list[FilePair], list[LeftOut]]:
    """All images of a pattern with their label files, by path, and the files beside them that are not used.

    Args:
        images: root and pattern of the images.
        labels: root and pattern of the label files.
        name: of the dataset, for errors.
        suffixes: of images, where their pattern leaves it out.

    Raises:
        SettingsError: the patterns' wildcards differ in number.
        DatasetError: no such folder, two label files for one image, or two images for one label file.
    """
    root, pattern = images
    label_root, label_pattern = labels
    if pattern.wildcards != label_pattern.wildcards:
        raise SettingsError(
            f"{name}: the patterns {pattern.text!r} and {label_pattern.text!r} must have the same wildcards: "
            "what those of the image stand for is put into those of the label"
        )
    folder = root / pattern.folder
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    shelf = _Shelf(label_root, label_pattern, beside=folder)
    matches: list[tuple[tuple[str, ...], str]] = []
    others = []
    for inside in _walk(folder):
        relative = f"{pattern.folder}/{inside}" if pattern.folder else inside
        if shelf.holds(root / relative):
            continue
        groups = pattern.match(relative, suffixes)
        if groups is None:
            others.append(relative)
        else:
            matches.append((groups, relative))
    matches.sort()
    last = Counter(groups[-1] if groups else relative for groups, relative in matches)
    shelf.reserve(groups for groups, _ in matches)
    pairs = []
    taken: dict[Path, str] = {}
    for groups, relative in matches:
        short = groups[-1] if groups else Path(relative).stem
        unique = short if last[short] == 1 else "/".join(group.strip("/") for group in groups if group)
        path, instead = shelf.find(groups)
        if (first := taken.setdefault(path, relative)) != relative:
            raise DatasetError(
                f"{root / relative}: another image of that name differs only in its suffix or in how its accents are "
                f"stored: {root / first}; keep one of them"
            )
        pairs.append(FilePair(unique, root / relative, path, instead))
    used = {pair.labels for pair in pairs}
    left_out = [LeftOut(root / r, _why_no_image(r, pattern)) for r in others if root / r not in used]
    return pairs, left_out + shelf.unused(used)


def _why_no_image(relative: str, pattern: Pattern) -> str:
    if Path(relative).suffix.lower() not in IMAGE_SUFFIXES:
        return f"no image that is read ({', '.join(s.removeprefix('.') for s in IMAGE_SUFFIXES)} are)"
    if relative.count("/") > pattern.text.count("/") and "**" not in pattern.text:
        return "in a sub-folder (name it in the patterns: images: 'images/**/*', labels: 'labels/**/*')"
    return f"not of the pattern {pattern.text}"


class _Shelf:
    """The label files of a dataset."""

    def __init__(self, root: Path, pattern: Pattern, beside: Path) -> None:
        self._root, self._pattern = root, pattern
        folder = root / pattern.folder
        self._is_beside = folder.is_dir() and folder.samefile(beside)
        self._files: dict[str, dict[str, list[str]]] = {}  # folder -> stem -> files
        self._all: list[str] = []
        self._reserved: set[str] = set()
        for inside in _walk(folder) if folder.is_dir() else ():
            relative = f"{pattern.folder}/{inside}" if pattern.folder else inside
            self._all.append(relative)
            parent, _, file = relative.rpartition("/")
            self._files.setdefault(composed(parent), {}).setdefault(composed(Path(file).stem), []).append(relative)

    def holds(self, path: Path) -> bool:
        """Whether a file among the images is one of the label files, by the ending of its name."""
        if not self._is_beside:
            return False
        name = self._pattern.text.rpartition("/")[2]
        ending = (Path(name).stem if self._pattern.has_suffix else name).replace("*", "")
        relative = path.relative_to(self._root).as_posix()
        return ending != "" and self._pattern.match(relative, MASK_SUFFIXES) is not None

    def reserve(self, images: Iterable[Sequence[str]]) -> None:
        """Keep a label file of an image's own name for that image: x_mask.png is not of x where x_mask is one."""
        self._reserved = {composed(self._pattern.filled(groups)) for groups in images}

    def find(self, groups: Sequence[str]) -> tuple[Path, str]:
        """The label file of an image; or where it should be, and what lies there instead.

        Raises:
            DatasetError: two files could be meant.
        """
        wanted = composed(self._pattern.filled(groups))
        parent, _, file = wanted.rpartition("/")
        stems = self._files.get(parent, {})
        if self._pattern.has_suffix:
            names = [n for n in stems.get(Path(file).stem, ()) if Path(n).suffix.lower() == Path(file).suffix.lower()]
        else:
            wanted += ".png"
            below = f"{parent}/" if parent else ""
            endings = [end for end in MASK_ENDINGS if not end or f"{below}{file}{end}" not in self._reserved]
            names = [n for end in endings for n in stems.get(file + end, ()) if Path(n).suffix.lower() in MASK_SUFFIXES]
        if len(names) > 1:
            listed = ", ".join(str(self._root / n) for n in names)
            raise DatasetError(f"{listed}: each could be the label image of {file}; keep one, or name a pattern")
        if names:
            return self._root / names[0], ""
        return self._root / wanted, self._instead(parent, Path(wanted).stem)

    def _instead(self, parent: str, stem: str) -> str:
        stems = self._files.get(parent, {})
        folded = {known.casefold(): known for known in stems}
        near = [known for low, known in folded.items() if low.startswith(stem.casefold())]
        near = near or [folded[low] for low in difflib.get_close_matches(stem.casefold(), folded, 1, 0.8)]
        files = [Path(name) for known in near for name in stems[known]][:3]
        if not files:
            return ""
        lossy = any(file.suffix.lower() in (".jpg", ".jpeg") for file in files)
        why = " (a JPEG is no label image: its compression changes values; export PNG)" if lossy else ""
        return f"; there is {', '.join(file.name for file in files)}{why}"

    def unused(self, used: set[Path]) -> list[LeftOut]:
        """Label files that no image asked for; and what is none, in a folder that is only for them."""
        left = []
        for relative in self._all:
            path = self._root / relative
            if path in used or (self._is_beside and not self.holds(path)):
                continue
            if self._pattern.match(relative, MASK_SUFFIXES) is not None:
                left.append(LeftOut(path, "a label file without an image"))
            elif not self._pattern.has_suffix:
                left.append(LeftOut(path, "no label file that is read"))
        return left


class PairedFiles:
    """A dataset of image and label files with one mapping.

    Args:
        name: for reports.
        pairs: the files, in order.
        mapping: from the label files' values or colors to the label set's ids.
        size: resize every sample to this; None keeps the files' size.
        read: reads a label file.
        left_out: files of its folders that it does not use.
        labeled: whether there are label files; if not, every pixel is unlabeled.

    Raises:
        DatasetError: no pairs.
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[FilePair],
        mapping: LabelMapping,
        size: Size | None = None,
        read: Callable[[Path], Mask] = read_mask,
        left_out: Sequence[LeftOut] = (),
        labeled: bool = True,
    ) -> None:
        if not pairs:
            raise DatasetError(f"dataset {name!r} has no images")
        self.name = name
        self.pairs = tuple(pairs)
        self.mapping = mapping
        self.size = size
        self.read = read
        self.left_out = tuple(left_out)
        self.labeled = labeled

    def part(self, keep: slice, name: str | None = None) -> PairedFiles:
        """Some of its pairs."""
        kept = self.pairs[keep]
        return PairedFiles(name or self.name, kept, self.mapping, self.size, self.read, self.left_out, self.labeled)

    def demand_labels(self) -> PairedFiles:
        """Itself, if every image has its label file.

        Raises:
            MissingLabelsError: some label files are not there.
        """
        missing = tuple(pair for pair in self.pairs if not pair.labels.is_file())
        if missing:
            raise MissingLabelsError(self, missing)
        return self

    @property
    def label_set(self) -> LabelSet:
        return self.mapping.target

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_rgb(pair.image)
        if self.labeled:
            labels = self.read(pair.labels).labels(self.mapping, pair.labels)
        else:
            labels = np.full(image.shape[:2], UNLABELED, np.uint8)
        if image.shape[:2] != labels.shape:
            turned = "; image files are read upright, as their EXIF or XMP orientation says" * (
                image.shape[:2] == labels.shape[::-1]
            )
            sizes = f"size {Size.of(labels)} differs from its image's, {Size.of(image)}"
            raise DatasetError(f"{pair.labels}: {sizes}{turned}")
        if self.size is not None and Size.of(image) != self.size:
            image, labels = resize_image(image, self.size), resize_labels(labels, self.size)
        return Sample(pair.name, image, labels)


class MissingLabelsError(DatasetError):
    """Images without a label file; `dataset` has them all the same, so that the rest can be looked at."""

    def __init__(self, dataset: PairedFiles, missing: Sequence[FilePair]) -> None:
        count = f"{len(missing)} of {len(dataset)} images"
        first = missing[0]
        super().__init__(f"{dataset.name}: no label image for {count}, for example {first.labels}{first.instead}")
        self.dataset = dataset
        self.missing = tuple(missing)


def paired(
    name: str,
    images: tuple[Path, str],
    labels: tuple[Path, str],
    mapping: LabelMapping,
    size: Size | None = None,
    read: Callable[[Path], Mask] = read_mask,
    keep: slice = slice(None),
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> PairedFiles:
    """The dataset of two patterns, each below its root.

    Raises:
        SettingsError, DatasetError: as `find_pairs`; or no images.
        MissingLabelsError: an image has no label file.
    """
    pairs, left_out = find_pairs((images[0], Pattern(images[1])), (labels[0], Pattern(labels[1])), name, suffixes)
    if not pairs and left_out:
        raise DatasetError(f"dataset {name!r} has no images; {left_out[0].path}: {left_out[0].reason}")
    return PairedFiles(name, pairs, mapping, size, read, left_out).part(keep).demand_labels()


def pair_dataset(
    name: str,
    summary: str,
    images: str,
    labels: str | Iterable[str],
    mapping: str,
    splits: dict[str, str],
    keep: dict[str, slice] | None = None,
    size: Size | None = None,
    read: Callable[[Path], Mask] = read_mask,
) -> DatasetInfo:
    """A published dataset of image and label files.

    Args:
        name, summary, mapping, splits: see DatasetInfo.
        images, labels: patterns; `{split}` stands for the split's folder.
        keep: split -> which of its images, for a held-out block.
        size: of the samples, unless another is asked for.
        read: reads a label file.
    """
    patterns = (labels,) if isinstance(labels, str) else tuple(labels)

    def open_dataset(request: OpenRequest) -> PairedFiles:
        assert request.mapping is not None
        folder = splits[request.split]
        filled = [pattern.replace("{split}", folder) for pattern in patterns]
        image_pattern = images.replace("{split}", folder)
        there = [p for p in filled if (request.root / Pattern(p).folder).is_dir()]
        if not there and (request.root / Pattern(image_pattern).folder).is_dir():
            named = " or ".join(f"{Pattern(p).folder}/" for p in filled)
            raise DatasetError(f"{request.root}: the label files' folder {named} is not there")
        return paired(
            f"{name}/{request.split}",
            (request.root, image_pattern),
            (request.root, there[0] if there else filled[0]),
            load_label_mapping(request.mapping),
            request.size or size,
            read,
            (keep or {}).get(request.split, slice(None)),
        )

    return DatasetInfo(name, summary, open_dataset, splits, mapping, images=images, labels=patterns)
