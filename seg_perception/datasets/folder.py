"""Your own images and label files: images/ beside labels/, masks beside their images, or two patterns.

images/NAME.jpg   labels/NAME.png (or NAME_mask.png, ...; masks/ instead of labels/)
NAME.jpg          NAME.png, or NAME_mask.png, ... in the same folder
images/NAME.jpg   nothing, or NAME.jpg alone, where `unlabeled` says so
anything else     named by `images` and `labels`, patterns as in pairs.py
"""

from __future__ import annotations

from pathlib import Path

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.files import real_path
from seg_perception.core.image_file import IMAGE_SUFFIXES, is_hidden
from seg_perception.core.label_set import LabelMapping, load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import DatasetInfo, OpenRequest, files_in
from seg_perception.datasets.masks import MASK_SUFFIXES
from seg_perception.datasets.pairs import MASK_ENDINGS, FilePair, PairedFiles, paired

_LABEL_FOLDERS = ("labels", "masks")
_JPEG = (".jpg", ".jpeg")


def folder_pairs(
    images: Path,
    labels: Path,
    mapping: LabelMapping,
    name: str = "",
    size: Size | None = None,
    keep: slice = slice(None),
) -> PairedFiles:
    """Pair the images of one folder with the label files of another, by name.

    Args:
        images: folder of images.
        labels: folder of label files, NAME.png or NAME_mask.png, ....
        mapping: from the label files' values or colors to class ids.
        name: for reports; the images folder's parent by default.
        size: resize every sample to this.
        keep: which of the sorted names to keep, for a held-out block.

    Raises:
        DatasetError: a folder is missing or empty, an image has no label file, or two images share one.
    """
    name = name or real_path(images).parent.name
    return paired(name, (images, "*"), (labels, "*"), mapping, size, keep=keep)


def _open(request: OpenRequest) -> PairedFiles:
    assert request.mapping is not None
    mapping = load_label_mapping(request.mapping)
    root, name = request.root, real_path(request.root).name
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    if request.unlabeled:
        files = files_in(root / "images" if (root / "images").is_dir() else root, IMAGE_SUFFIXES)
        pairs = [FilePair(path.name, path, path) for path in files]
        return PairedFiles(name, pairs, mapping, request.size, labeled=False)
    if request.images is not None and request.labels is not None:
        images, labels = request.images, request.labels
    elif (root / "images").is_dir() or not _has_images(root):
        images, labels = "images/*", f"{_label_folder(root)}/*"
    else:
        images, labels, suffixes = _beside(root)
    return paired(name, (root, images), (root, labels), mapping, request.size, suffixes=suffixes)


def _label_folder(root: Path) -> str:
    there = [folder for folder in _LABEL_FOLDERS if (root / folder).is_dir()]
    if len(there) > 1:
        raise SettingsError(
            f"{root} holds both {' and '.join(f'{folder}/' for folder in there)}; say which by the patterns "
            "images: 'images/*' and labels: 'labels/*'"
        )
    return there[0] if there else _LABEL_FOLDERS[0]


def _files(root: Path) -> list[Path]:
    return [p for p in root.iterdir() if p.is_file() and not is_hidden(p)] if root.is_dir() else []


def _has_images(root: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in _files(root))


def _beside(root: Path) -> tuple[str, str, tuple[str, ...]]:
    """Patterns and image suffixes for label files in the images' own folder.

    Raises:
        DatasetError: their names do not tell which is which.
    """
    files = _files(root)
    stems = {path.stem for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    masks = [path.stem for path in files if path.suffix.lower() in MASK_SUFFIXES]
    counts = {
        ending: sum(stem.endswith(ending) and stem.removesuffix(ending) in stems for stem in masks)
        for ending in MASK_ENDINGS
        if ending
    }
    best = max(counts, key=lambda ending: counts[ending])
    if counts[best]:
        return "*", f"*{best}", IMAGE_SUFFIXES
    photos = {path.stem for path in files if path.suffix.lower() in _JPEG}
    if photos & set(masks):
        return "*", "*", _JPEG
    raise DatasetError(
        f"{root}: neither images/ beside labels/ (or masks/), nor NAME_mask.png or the like beside its images; "
        "or say where they are by the patterns images: '*/rgb/*' and labels: '*/ids/*'"
    )


DATASET = DatasetInfo(
    name="folder",
    summary="your own images and label files; patterns are accepted",
    open=_open,
    needs_mapping=True,
    takes_patterns=True,
    images="images/*",
    labels=("labels/*",),
)
