"""Writes what a format gives, with the pictures it names, as a folder of ours: images/, labels/ and their meaning."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from tqdm import tqdm

import seg_perception.datasets.convert
from seg_perception.core.errors import DatasetError, InputError, SegPerceptionError, SettingsError, first_of
from seg_perception.core.files import make_folder, read_regular_file
from seg_perception.core.image_file import IMAGE_SUFFIXES, MAX_FILE_BYTES, decode_rgb, inspect_encoded
from seg_perception.core.label_set import IGNORE
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import Annotated, Annotations, Format, SourceClass, checked
from seg_perception.datasets.convert.label_studio import without_upload_prefix
from seg_perception.datasets.convert.meaning import OWN, Meaning
from seg_perception.datasets.masks import MASK_SUFFIXES
from seg_perception.datasets.pairs import composed

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def formats() -> Mapping[str, Format]:
    """Every known format by name, read-only."""
    package = seg_perception.datasets.convert
    modules = (
        importlib.import_module(f"{package.__name__}.{name}")
        for name in sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    )
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Format)]
    return MappingProxyType({one.name: one for one in found})


def formats_table() -> str:
    """The formats as a Markdown table, as docs/your_masks.md shows it."""
    lines = ["| `--from` | what SOURCE names | which of two overlapping shapes is seen |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {one.summary} | {one.order} |" for one in formats().values()]
    return "\n".join(lines)


def detect(source: Path) -> Format:
    """The format that a path looks like.

    Raises:
        FileNotFoundError: nothing there.
        DatasetError: none, or more than one.
    """
    if not source.exists():
        raise FileNotFoundError(2, "no such file or folder", str(source))
    if source.is_file() and source.suffix.lower() in _ARCHIVES:
        raise DatasetError(f"{source}: an archive; unpack it and name the folder or file inside")
    found = [one for one in formats().values() if one.matches(source)]
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{one.name}: {one.summary}" for one in formats().values())
    which = " or ".join(one.name for one in found) if found else f"none of the formats{_what_else(source)}"
    raise DatasetError(f"{source}: looks like {which}; say which with --from. Known: {known}")


def _what_else(source: Path) -> str:
    """What a folder is that no format knows, and what to do with it, as the rest of a sentence."""
    for folder in (source / name for name in ("labels", "masks") if (source / name).is_dir()):
        suffixes = {path.suffix.lower() for path in folder.rglob("*")}
        if suffixes & set(MASK_SUFFIXES):
            return (
                f", but {folder.name}/ holds label files already: they are read as they are (seg-perception dataset "
                f"check --dataset folder --root {source} --mapping FILE)"
            )
        if ".txt" in suffixes:
            return f", but {folder.name}/ holds text files as YOLO's, which are not read: export as COCO, or as masks"
    return ""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of a conversion: how much of it there is, and what it became."""

    name: str
    value: int
    pixels: int
    images: int
    became: str


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        format: its name.
        images: how many were written.
        rows: the classes, and last the pixels that no shape covers.
        remarks: what was not drawn, taken or found, a line each.
        left_out: pictures that could not be converted, with the reason.
    """

    format: str
    images: int
    rows: tuple[ClassRow, ...]
    remarks: tuple[str, ...]
    left_out: tuple[str, ...] = field(default_factory=tuple)

    def table(self) -> str:
        width = max(5, *(len(row.name) for row in self.rows))
        lines = [f"{self.images} images from {self.format}"]
        lines.append(f"  {'class':<{width}}{'value':>7}{'pixels':>14}{'images':>8}  became")
        lines += [
            f"  {row.name:<{width}}{row.value:>7}{row.pixels:>14}{row.images:>8}  {row.became}" for row in self.rows
        ]
        return "\n".join([*lines, *self.remarks, *(f"left out: {text}" for text in self.left_out)])


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """How a source is converted.

    Attributes:
        format: as `seg-perception dataset convert --help` lists them; None: what the source looks like.
        images: folder of the pictures; None: beside the annotations.
        to: "own" keeps the source's classes; a label set (name or file) takes those of equal names.
        renamed: source class -> class of the target, or "ignore".
        unlabeled: what pixels that no shape covers become: "ignore", or a class of the target.
        keep_going: leave out pictures that cannot be converted; else the first faults end the conversion.
    """

    format: str | None = None
    images: str | Path | None = None
    to: str = OWN
    renamed: Mapping[str, str] = field(default_factory=dict)
    unlabeled: str = IGNORE
    keep_going: bool = False


def convert(
    source: str | Path, out: str | Path, settings: ConvertSettings | None = None, progress: bool = False
) -> Conversion:
    """Convert another tool's annotations into a new folder of ours, which is there as a whole or not at all.

    Args:
        source: file or folder that the tool exported.
        out: a new folder, for `DatasetSettings(kind="folder", root=out)`; its mapping.yaml says what its values mean.
        settings: how; None: what the source looks like, with its own classes.
        progress: show a bar.

    Raises:
        FileNotFoundError: no such source.
        FileExistsError: the folder is there and not empty.
        SettingsError: an unknown format or class.
        DatasetError: the source cannot be read, or pictures cannot be converted (all are listed).
    """
    source, out, settings = Path(source), Path(out), settings or ConvertSettings()
    if settings.format is not None and settings.format not in formats():
        raise SettingsError(f"no format {settings.format!r}; known: {', '.join(formats())}")
    chosen = formats()[settings.format] if settings.format else detect(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(17, "the output must be a new or empty folder", str(out))
    annotations = chosen.read(source)
    if not annotations.classes:
        why = "".join(f"\n  {text}: {count}" for text, count in annotations.remarks.items())
        raise DatasetError(f"{source}: no classes; there is nothing to convert{why}")
    meaning = Meaning.of(annotations, settings.to, settings.renamed, settings.unlabeled)
    make_folder(out.parent)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        writer = _Writer(
            work,
            annotations,
            Pictures(source, Path(settings.images) if settings.images is not None else None),
            settings.keep_going,
        )
        for picture in tqdm(annotations.pictures, f"convert {chosen.name}", unit="image", disable=not progress):
            writer.add(picture)
        writer.finish(source)
        meaning.write(work)
        work.chmod(0o755)
        if out.exists():
            out.rmdir()
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    remarks = [f"{text}: {count}" for text, count in annotations.remarks.items()]
    return Conversion(
        chosen.name,
        writer.count,
        tuple(writer.rows(meaning)),
        (*remarks, *writer.images.repeated(), *writer.images.unused(), *meaning.remarks),
        tuple(writer.faults),
    )


class _Writer:
    """Writes pictures and label files, and counts."""

    def __init__(self, folder: Path, annotations: Annotations, images: Pictures, keep_going: bool) -> None:
        self._folder, self._annotations, self.images = folder, annotations, images
        self._keep_going = keep_going
        self.count = 0
        self.faults: list[str] = []
        self._names: set[str] = set()
        self._pixels = np.zeros(65536, np.int64)
        self._images_of = np.zeros(65536, np.int64)
        largest = max(annotations.unlabeled, *(c.value for c in annotations.classes))
        self._dtype = np.uint8 if largest <= 255 else np.uint16
        for name in ("images", "labels"):
            (folder / name).mkdir()

    def add(self, picture: Annotated) -> None:
        try:
            content, suffix = self._picture(picture)
            header = inspect_encoded(content, picture.image)
            across, down = header.size.width, header.size.height
            size = Size(down, across) if header.orientation >= 5 else header.size
            if picture.size is not None and picture.size != size:
                raise DatasetError(f"annotated at {picture.size}, but the picture is {size}")
            checked(size.width, size.height, picture.image)
            ids = picture.draw(size)
        except (SegPerceptionError, OSError) as error:
            self.faults.append(f"{picture.image}: {error}")
            return
        name = self._name(picture.image)
        counts = np.bincount(ids.reshape(-1), minlength=65536)
        self._pixels += counts
        self._images_of += counts > 0
        (self._folder / "images" / f"{name}{suffix}").write_bytes(content)
        done, encoded = cv2.imencode(".png", ids.astype(self._dtype))
        assert done
        (self._folder / "labels" / f"{name}.png").write_bytes(encoded.tobytes())
        self.count += 1

    def _picture(self, picture: Annotated) -> tuple[bytes, str]:
        try:
            path = self.images.find(picture.image)
        except DatasetError:
            if picture.embedded is None:
                raise
            path = None
        content = read_regular_file(path, MAX_FILE_BYTES) if path is not None else None
        if picture.embedded is not None and (content is None or not _same_picture(content, picture.embedded)):
            codec = inspect_encoded(picture.embedded, picture.image).codec.value.lower()
            self._annotations.remarks["pictures taken from inside their annotations' files"] += 1
            return picture.embedded, ".jpg" if codec == "jpeg" else f".{codec}"
        if path is None or content is None:
            raise InputError(f"no such picture below {self.images.root}; name its folder with --images")
        self.images.take(path)
        return content, path.suffix.lower()

    def _name(self, image: str) -> str:
        """A name of its own in one flat folder, as that is read: not hidden, accents in their letters."""
        path = Path(composed(image))
        for name in map(_short, (path.stem, "__".join((*path.parts[:-1], path.stem)))):
            if name not in self._names:
                break
        else:
            number = 2
            while (numbered := f"{name}_{number}") in self._names:
                number += 1
            name = numbered
        self._names.add(name)
        return name

    def finish(self, source: Path) -> None:
        if self.faults and not self._keep_going:
            listed = "\n  ".join(self.faults[:8])
            more = f"\n  and {len(self.faults) - 8} more" if len(self.faults) > 8 else ""
            total = self.count + len(self.faults)
            raise DatasetError(
                f"{source}: {len(self.faults)} of {total} pictures cannot be converted, and nothing was written; mend "
                f"them, or leave them out with --keep-going:\n  {listed}{more}"
            )
        if self.count and int(self._pixels.sum()) == int(self._pixels[self._annotations.unlabeled]):
            remarks = "".join(f"\n  {text}: {count}" for text, count in self._annotations.remarks.items())
            raise DatasetError(
                f"{source}: no shape covers a pixel of its {self.count} pictures; nothing written{remarks}"
            )
        if not self.count:
            raise DatasetError(
                f"{source}: no picture could be converted" + "".join(f"\n  {f}" for f in self.faults[:8])
            )

    def rows(self, meaning: Meaning) -> Iterable[ClassRow]:
        classes: Sequence[SourceClass] = self._annotations.classes
        free = self._annotations.unlabeled
        if free not in {c.value for c in classes}:
            classes = (*classes, SourceClass("(not labeled)", free))
        for c in classes:
            became = meaning.became[c.value]
            pixels, images = int(self._pixels[c.value]), int(self._images_of[c.value])
            yield ClassRow(c.name, c.value, pixels, images, became)


_LONGEST_NAME: Final = 200  # bytes, of the 255 that file systems take


def _short(name: str) -> str:
    return name.lstrip(".").encode()[:_LONGEST_NAME].decode(errors="ignore") or "picture"


def _same_picture(file: bytes, embedded: bytes) -> bool:
    """Whether a file shows what the annotator saw: tools store that encoded anew, so levels differ a little."""
    try:
        one, other = decode_rgb(file, "file"), decode_rgb(embedded, "embedded")
    except InputError:
        return False
    if one.shape != other.shape:
        return False
    small = [cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(np.int16) for pixels in (one, other)]
    return float(np.abs(small[0] - small[1]).mean()) < 8


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


_KINDS_OF_FOLDERS: Final = _NO_IMAGE_FOLDERS.union(_IMAGE_FOLDERS, ("gtFine", "gtCoarse", "leftImg8bit", "annotations"))
"""Names that say what a folder holds, and not where a picture is from."""


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
            if path.suffix.lower() in IMAGE_SUFFIXES and not hidden:
                self._files[composed("/".join(parts))] = path
        self._used: set[Path] = set()
        self._again: list[Path] = []
        self._by_stem: dict[str, list[Path]] = {}
        for name, path in self._files.items():
            self._by_stem.setdefault(Path(name).stem, []).append(path)

    def find(self, name: str) -> Path | None:
        """The file of a name: below the folder, with whatever suffix, or anywhere by a name that is there once.

        Raises:
            DatasetError: several could be meant, or the only one lies in another folder than the name says.
        """
        exact = self.root / name  # in whatever folder, labels/ too: the annotation says so
        if composed(name) not in self._files and exact.suffix.lower() in IMAGE_SUFFIXES and exact.is_file():
            return exact
        name = composed(name)
        stem = name.rpartition(".")[0] or name
        for candidate in (name, *(f"{folder}/{name}" for folder in _IMAGE_FOLDERS)):
            if candidate in self._files:
                return self._files[candidate]
        for start in ("", *(f"{folder}/" for folder in _IMAGE_FOLDERS)):
            same = [path for known, path in self._files.items() if known.rpartition(".")[0] == start + stem]
            if len(same) == 1:
                return same[0]
        for short in dict.fromkeys((Path(name).stem, Path(without_upload_prefix(name)).stem)):
            named = self._by_stem.get(short, [])
            nearness = {path: self._nearness(name, path) for path in named}
            found = [path for path in named if nearness[path] is not None]
            found = [path for path in found if nearness[path] == max(nearness[other] or 0 for other in found)]
            if len(found) > 1:
                raise DatasetError(
                    f"{name}: several pictures could be meant: {first_of(found, 3)}; name their folder with --images"
                )
            if found:
                return found[0]
            if named:
                raise DatasetError(
                    f"no such picture below {self.root}; {first_of(named, 3)} has its name, but lies in another "
                    "folder: if it is the one, name that folder with --images"
                )
        return None

    def _nearness(self, name: str, path: Path) -> int | None:
        """How many folders two names share; None if they contradict each other, as siteA/0001 and siteB/0001 do."""
        wanted, there = (
            [part for part in parts[:-1] if part not in _KINDS_OF_FOLDERS]
            for parts in (Path(name).parts, Path(composed(path.relative_to(self.root).as_posix())).parts)
        )
        shared = min(len(wanted), len(there))
        return shared if shared == 0 or wanted[-shared:] == there[-shared:] else None

    def take(self, path: Path) -> None:
        """Note that a picture is used."""
        if path in self._used:
            self._again.append(path)
        self._used.add(path)

    def repeated(self) -> list[str]:
        """What is to be said of pictures that several annotations name."""
        if not self._again:
            return []
        several = f"pictures that an annotation before named, too, written once more: {len(self._again)}"
        return [f"{several}: {first_of(self._again, 3)}"]

    def unused(self) -> list[str]:
        masks = {path.with_name(f"{path.stem}_mask") for path in self._used}
        rest = [p for p in self._files.values() if p not in self._used and p.with_suffix("") not in masks]
        if not rest:
            return []
        return [f"pictures without an annotation, left out: {len(rest)}: {first_of(rest, 3)}"]
