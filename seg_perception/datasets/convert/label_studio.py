"""Label Studio: its JSON export, with brush masks, polygons and rectangles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import (
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    checked,
    numbered,
    read_json,
    rows,
    safe_name,
    table,
    text,
)

_AREAS = {"brushlabels": "brushlabels", "polygonlabels": "polygonlabels", "rectanglelabels": "rectanglelabels"}


def _matches(path: Path) -> bool:
    if not (path.is_file() and path.suffix.lower() == ".json"):
        return False
    try:
        document = read_json(path)
    except (DatasetError, OSError):
        return False
    return bool(
        isinstance(document, list) and document and isinstance(document[0], dict) and "annotations" in document[0]
    )


def _read(path: Path) -> Annotations:
    tasks = [table(task, "a task", path) for task in rows(read_json(path), "the file", path)]
    remarks: dict[str, int] = {}
    chosen = [(task, _results(task, path, remarks)) for task in tasks]
    names = [_label(result, path) for _, results in chosen for result in results]
    classes = numbered(names)
    return Annotations(classes, _pictures(chosen, {c.name: c.value for c in classes}, path), 0, remarks)


def _results(task: dict[str, Any], path: Path, remarks: dict[str, int]) -> list[dict[str, Any]]:
    """The shapes of a task's last annotation that was not cancelled."""
    annotations = [table(a, "an annotation", path) for a in rows(task.get("annotations"), "annotations", path)]
    valid = [a for a in annotations if not a.get("was_cancelled")]
    if len(valid) > 1:
        key = "tasks annotated more than once: the last annotation was taken"
        remarks[key] = remarks.get(key, 0) + 1
    results = []
    for row in rows(valid[-1].get("result"), "result", path) if valid else []:
        result = table(row, "a result", path)
        if result.get("type") in _AREAS:
            results.append(result)
        else:
            key = f"{str(result.get('type'))[:40]} has no area and is not drawn"
            remarks[key] = remarks.get(key, 0) + 1
    return results


def _label(result: dict[str, Any], path: Path) -> str:
    value = table(result.get("value"), "value", path)
    labels = rows(value.get(_AREAS[result["type"]]), result["type"], path)
    if len(labels) != 1:
        raise DatasetError(f"{path}: a shape with the labels {str(labels)[:80]}; one is expected")
    return text(labels[0], "a label", path)


def _image_name(task: dict[str, Any], path: Path) -> str:
    data = table(task.get("data"), "data", path)
    image = next((data[key] for key in ("image", "img", "picture") if isinstance(data.get(key), str)), None)
    if image is None:
        raise DatasetError(f"{path}: a task without data.image; rename the field of its pictures to 'image'")
    parts = urlsplit(image)
    local = parse_qs(parts.query).get("d")  # /data/local-files/?d=folder/x.jpg
    name = PurePosixPath(local[0] if local else unquote(parts.path)).name
    return safe_name(name, path)


def _pictures(
    chosen: list[tuple[dict[str, Any], list[dict[str, Any]]]], values: dict[str, int], path: Path
) -> Iterator[Annotated]:
    for task, results in chosen:
        stated = {(r.get("original_width"), r.get("original_height")) for r in results}
        if len(stated) > 1:
            raise DatasetError(f"{path}: shapes of one picture state the sizes {sorted(map(str, stated))}")
        width, height = next(iter(stated)) if stated else (None, None)
        size = checked(width, height, path) if stated else None  # type: ignore[arg-type]

        def draw(size: Size, results: list[dict[str, Any]] = results) -> Ids:
            canvas = Canvas(size, values, 0, path)
            for result in results:
                _draw(canvas, result, size, path)
            return canvas.ids

        yield Annotated(_image_name(task, path), path, size, draw)


def _draw(canvas: Canvas, result: dict[str, Any], size: Size, path: Path) -> None:
    name, value = _label(result, path), result["value"]
    if result["type"] == "brushlabels":
        canvas.paint_mask(decode_brush(rows(value.get("rle"), "rle", path), size, path), name)
        return
    if result["type"] == "polygonlabels":
        corners = canvas.points(value.get("points"))
    else:
        x, y, w, h = (value.get(key) for key in ("x", "y", "width", "height"))
        corners = canvas.points([(x, y)])
        far = canvas.points([(w, h)])[0] + corners[0]
        corners = np.array([corners[0], (far[0], corners[0][1]), far, (corners[0][0], far[1])])
    corners = corners * (size.width / 100, size.height / 100)  # they are in percent
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
