"""Label Studio: its JSON export, with brush masks, polygons, ellipses and rectangles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import (
    BOXES_FILLED,
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    checked,
    json_keys,
    numbered,
    read_json,
    rows,
    safe_name,
    table,
    tables,
    text,
)

_AREAS = ("brush", "polygon", "rectangle", "ellipse")
_UNREAD_AREAS = ("bitmask", "vector", "magicwand", "superpixel")
_UPLOADS = "data/upload/"
_PICTURES = re.compile(r"\.(jpe?g|png|bmp|tiff?|webp)$", re.IGNORECASE)


def _matches(path: Path) -> bool:
    keys = json_keys(path) if path.is_file() and path.suffix.lower() == ".json" else frozenset()
    return "[]" in keys and not keys.isdisjoint({"annotations", "predictions", "annotation_id"})  # the last: JSON-MIN


def _read(path: Path) -> Annotations:
    tasks = tables(read_json(path), "the file", path)
    if tasks and not any("annotations" in task for task in tasks):
        raise DatasetError(
            f"{path}: its tasks have no annotations; export as JSON (JSON-MIN leaves the sizes out, and predictions "
            "become annotations when they are accepted)"
        )
    remarks: Counter[str] = Counter()
    chosen = [(task, _results(task, path, remarks)) for task in tasks]
    classes = numbered([_label(result, path) for _, results in chosen for result in results])
    return Annotations(classes, _pictures(chosen, {c.name: c.value for c in classes}, path, remarks), 0, remarks)


def _results(task: dict[str, Any], path: Path, remarks: Counter[str]) -> list[dict[str, Any]]:
    """The shapes of a task's last annotation that was not cancelled."""
    annotations = tables(task.get("annotations"), "annotations", path)
    valid = [a for a in annotations if not a.get("was_cancelled")]
    if len(valid) > 1:
        remarks["tasks annotated more than once: the last annotation was taken"] += 1
    if not valid:
        remarks["tasks without an annotation: nothing is drawn on their pictures"] += 1
        return []
    results = tables(valid[-1].get("result"), "result", path)
    # where the labeling interface keeps shapes and <Labels> apart, a region is two results of one id
    named = {r.get("id"): r for r in results if r.get("type") == "labels" and r.get("id") is not None}
    found = []
    for result in results:
        kind = str(result.get("type"))
        if kind.removesuffix("labels") in _UNREAD_AREAS:
            raise DatasetError(
                f"{path}: a shape of the kind {kind}, which is not read; those of {', '.join(_AREAS)} are: label the "
                "area anew with one of them, or export as COCO"
            )
        if _shape_of(result) is None:
            remarks[f"{kind[:40]} has no area and is not drawn"] += 1
        elif kind in _AREAS and result.get("id") in named:
            pass  # the shape without its label; its twin has both
        elif kind in _AREAS and not _labels(result, path):
            remarks["shapes without a label are not drawn"] += 1
        else:
            found.append(result)
            if _shape_of(result) == "rectangle":
                remarks[BOXES_FILLED] += 1
    return found


def _shape_of(result: dict[str, Any]) -> str | None:
    """What kind of shape a result is; None: it has no area."""
    kind = str(result.get("type"))
    if kind.removesuffix("labels") in _AREAS:
        return kind.removesuffix("labels")
    value = result.get("value")
    if kind != "labels" or not isinstance(value, dict):
        return None
    signs = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "width": "rectangle"}
    return next((shape for key, shape in signs.items() if key in value), None)


def _labels(result: dict[str, Any], path: Path) -> list[Any]:
    value = table(result.get("value"), "value", path)
    kind = str(result.get("type"))
    return rows(value.get(kind if kind.endswith("labels") else "labels", []), kind, path)


def _label(result: dict[str, Any], path: Path) -> str:
    labels = _labels(result, path)
    if len(labels) != 1:
        raise DatasetError(f"{path}: a shape with the labels {str(labels)[:80]}; one is expected")
    return text(labels[0], "a label", path)


def _image_name(task: dict[str, Any], results: list[dict[str, Any]], path: Path, remarks: Counter[str]) -> str:
    """The picture that a task's shapes lie on: where it has several, no other may be taken."""
    where = {(str(r.get("to_name")), r.get("item_index") or 0) for r in results}
    if len(where) > 1 or any(index for _, index in where):
        raise DatasetError(
            f"{path}: a task whose shapes lie on several pictures ({', '.join(sorted({n for n, _ in where}))}); one a "
            "task is read: give each picture a task of its own, or export as COCO"
        )
    data = table(task.get("data"), "data", path)
    fields = [key for key, v in data.items() if isinstance(v, str) and _is_picture(v)]
    tag = [name for name, _ in where if isinstance(data.get(name), str)]  # mostly named as its field is
    usual = [key for key in ("image", "img", "picture") if isinstance(data.get(key), str)]
    if not tag and not usual and len(fields) != 1:  # the field's name is the user's choice
        raise DatasetError(f"{path}: a task without data.image; rename the field of its pictures to 'image'")
    if not tag and where and len({data[key] for key in fields}) > 1:
        taken = (*usual, *fields)[0]
        remarks[f"tasks with pictures in {', '.join(sorted(fields))[:80]}: taken for the labeled one is {taken}"] += 1
    parts = urlsplit(data[(*tag, *usual, *fields)[0]])
    local = parse_qs(parts.query).get("d")  # /data/local-files/?d=folder/x.jpg
    name = local[0] if local else unquote(parts.path)
    if not local and (_UPLOADS in name or not name.strip("/")):  # its own folders, not those of the pictures
        name = PurePosixPath(name).name
    return safe_name(name.replace("\\", "/").lstrip("/"), path)


def _is_picture(place: str) -> bool:
    return _PICTURES.search(urlsplit(place).path + urlsplit(place).query) is not None


def _pictures(
    chosen: list[tuple[dict[str, Any], list[dict[str, Any]]]],
    values: dict[str, int],
    path: Path,
    remarks: Counter[str],
) -> Iterator[Annotated]:
    for task, results in chosen:
        name = _image_name(task, results, path, remarks)
        if turned := next((r["image_rotation"] for r in results if r.get("image_rotation")), None):
            raise DatasetError(
                f"{path}: {name} was labeled in a view turned by {str(turned)[:20]} degrees, in "
                "which its shapes lie; turn it back in Label Studio and export anew"
            )
        stated = {(r.get("original_width"), r.get("original_height")) for r in results}
        if len(stated) > 1:
            raise DatasetError(f"{path}: shapes of one picture state the sizes {sorted(map(str, stated))}")
        width, height = next(iter(stated)) if stated else (None, None)
        size = checked(width, height, path) if stated else None

        def draw(size: Size, results: list[dict[str, Any]] = results) -> Ids:
            canvas = Canvas(size, values, 0, path, remarks)
            for result in results:
                _draw(canvas, result, size, path)
            return canvas.ids

        yield Annotated(name, path, size, draw)


def _draw(canvas: Canvas, result: dict[str, Any], size: Size, path: Path) -> None:
    name, value, shape = _label(result, path), result["value"], _shape_of(result)
    if shape == "brush":
        canvas.paint_mask(decode_brush(rows(value.get("rle"), "rle", path), size, path), name)
        return
    scale = np.array([size.width, size.height]) / 100  # coordinates are in percent of the picture
    if shape == "polygon":
        corners = canvas.points(value.get("points")) * scale
    else:
        start = canvas.points([(value.get("x"), value.get("y"))])[0] * scale
        if shape == "ellipse":  # around its center
            radii = canvas.points([(value.get("radiusX"), value.get("radiusY"))])[0] * scale
            angles = np.radians(np.arange(360))
            offsets = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
        else:  # turned around its first corner
            across, down = canvas.points([(value.get("width"), value.get("height"))])[0] * scale
            offsets = np.array([(0, 0), (across, 0), (across, down), (0, down)])
        (turn,) = np.radians(canvas.points([(value.get("rotation") or 0, 0)])[0][:1])
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        corners = start + offsets @ turned
    canvas.paint_polygons([corners.reshape(-1).tolist()], name)


def decode_brush(rle: list[Any], size: Size, path: Path | str) -> NDArray[np.uint8]:
    """Label Studio's brush: run lengths of an RGBA picture's bytes, of which alpha is the mask.

    32 bits of length, 5 of word size, four times 4 of run sizes; then blocks: one bit that tells a run from
    literal words, two bits that choose the size of the length, the length, the word or words.
    """
    try:
        bits = np.unpackbits(np.array(rle, np.uint8))
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{path}: a brush's rle must be a list of bytes ({error})") from error
    position = 0

    def read(count: int) -> int:
        nonlocal position
        if position + count > len(bits):
            raise DatasetError(f"{path}: a brush's rle ends early")
        number = 0
        for bit in bits[position : position + count]:
            number = number << 1 | int(bit)
        position += count
        return number

    length, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if length != size.width * size.height * 4 or word > 8:
        raise DatasetError(f"{path}: a brush's rle of {length} bytes in a picture of {size}")
    out = np.zeros(length, np.uint8)
    powers = 1 << np.arange(word - 1, -1, -1)
    at = 0
    while at < length:
        is_run = read(1)
        end = at + 1 + read(sizes[read(2)])
        if end > length:
            raise DatasetError(f"{path}: a brush's rle goes on after its picture")
        if is_run:
            out[at:end] = read(word)
        else:
            count = (end - at) * word
            if position + count > len(bits):
                raise DatasetError(f"{path}: a brush's rle ends early")
            out[at:end] = bits[position : position + count].reshape(-1, word) @ powers
            position += count
        at = end
    return out.reshape(size.height, size.width, 4)[..., 3]


def without_upload_prefix(name: str) -> str:
    """A picture's name before it was uploaded: Label Studio puts eight hexadecimal digits in front."""
    folder, _, file = name.rpartition("/")
    bare = re.sub(r"^[0-9a-f]{8}-", "", file)
    return f"{folder}/{bare}" if folder else bare


FORMAT = Format(
    name="label-studio",
    summary="Label Studio: its JSON export (not JSON-MIN)",
    order="later shapes over earlier ones",
    matches=_matches,
    read=_read,
)
