"""Chooses the frames of a bag that are worth labeling: the network is unsure, sees new things, contradicts itself."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.bags.messages import IMAGE_TOPIC, IMAGE_TYPES, rgb_of
from seg_perception.bags.reader import BagReader
from seg_perception.core.errors import InputError
from seg_perception.core.files import make_folder, write_atomically
from seg_perception.core.resizing import resize_labels
from seg_perception.core.types import RgbImage, Size
from seg_perception.core.visual import contact_sheet, overlay
from seg_perception.engines.graph.features import NoFeaturesError
from seg_perception.engines.onnxruntime import NAME as ONNX_RUNTIME
from seg_perception.engines.onnxruntime import FeatureEngine
from seg_perception.engines.opening import AUTO, is_compiled, open_engine
from seg_perception.segmenter import RawSegmentation, Segmenter

_ROAD_LIKE = ("sidewalk", "terrain")  # beside what the label set calls drivable: what a road is taken for
_GRID = (6, 8)  # rows and columns in which the network's answer is summed up
_THUMBNAIL = (32, 18)
_SAME_PICTURE = 2.0  # mean difference of two thumbnails' gray values, 0 to 255, up to which they are one
_TILE = 320  # width of an image on the contact sheet, in pixels
_COLUMNS = 5


@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen frame.

    Attributes:
        frame: its number among the images of its topic, from 0.
        recorded_ns: its record time.
        uncertainty: 1 - confidence, mean over the road-like area, 0 to 1.
        disagreement: share of that area where the second model, or this one a frame later, says another class.
        novelty: cosine distance of the network's features from those of the nearest frame chosen before, from 0 for the
            same to 1 for nothing in common; 1 for the first.
        reason: why, in words.
    """

    frame: int
    recorded_ns: int
    uncertainty: float
    disagreement: float
    novelty: float
    reason: str


@dataclass(slots=True)
class Selection:
    """What was chosen, the best first, and of how many.

    Attributes:
        picks: the chosen frames.
        topic: their image topic.
        frames: images read.
        duplicates: of these, left out because a chosen one looks the same.
        novelty_by: what novelty was measured in: "features", or "labels" where the network's features cannot be had.
        rejected: images that could not be decoded, by reason.
    """

    picks: list[Pick]
    topic: str
    frames: int
    duplicates: int
    novelty_by: str
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Frames:
    """What is remembered of every frame: a few kilobytes."""

    numbers: list[int] = field(default_factory=list)
    recorded_ns: list[int] = field(default_factory=list)
    uncertainty: list[float] = field(default_factory=list)
    disagreement: list[float] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    thumbnails: list[NDArray[np.float32]] = field(default_factory=list)


def open_segmenter(
    model: Path, engine: str = AUTO, threads: int = 0, size: Size | None = None
) -> tuple[Segmenter, FeatureEngine | None, str]:
    """Open a model for `select_frames`, with its features where they can be had.

    Features come from ONNX Runtime on the CPU, which "auto" takes here.

    Returns:
        The segmenter, to be closed; its engine where that gives features; else, why it does not.

    Raises:
        FileNotFoundError: no such model.
        ModelError: it breaks the contract of a deployed graph.
        EngineError: the engine cannot be opened.
    """
    if engine not in (AUTO, ONNX_RUNTIME) or is_compiled(model):
        why = f"only ONNX Runtime on an .onnx file gives features, not {model.name if is_compiled(model) else engine}"
    else:
        try:
            features = FeatureEngine(model, threads)
        except NoFeaturesError as error:
            why = str(error)
        else:
            return Segmenter(features, size), features, ""
    return Segmenter(open_engine(model, engine, threads, size=size), size), None, why


def select_frames(
    bag: BagReader,
    segmenter: Segmenter,
    count: int = 200,
    images: str | None = None,
    second: Segmenter | None = None,
    on_frame: Callable[[int], object] = lambda _: None,
    features: FeatureEngine | None = None,
) -> Selection:
    """Choose frames, one after the other, each the best beside those chosen already.

    A frame's value is its rank in uncertainty plus its rank in disagreement, halved, plus its novelty as a share of the
    typical distance of two frames, up to 1: the farthest from all chosen ones comes first, as in k-center core-sets
    (Sener and Savarese, https://arxiv.org/abs/1708.00489). The drive is cut into as many spans of time as frames are
    wanted; a span gives two at most. Frames that look like a chosen one are dropped. The same inputs give the same
    answer.

    Args:
        bag: with an image topic.
        segmenter: the network that shall get better.
        count: how many; fewer come where there are no more that differ.
        images: the image topic; /image or the only one unless given.
        second: another network, whose contradiction counts instead of the own one a frame later.
        on_frame: called after each image.
        features: the segmenter's engine; without it, novelty is measured in grids of its labels.

    Raises:
        InputError: no such topic, no image that can be decoded, a count below 1, or a damaged bag.
        EngineError: the engine failed.
    """
    if count < 1:
        raise InputError(f"{count} frames cannot be selected: 1 or more")
    topic = bag.topic(images) if images else bag.topic_of_type(IMAGE_TYPES, "image topic", IMAGE_TOPIC)
    if second is not None and second.card.label_set.names != segmenter.card.label_set.names:
        raise InputError(
            f"{second.card.id} has other classes than {segmenter.card.id}: their labels cannot be compared"
        )
    selection = Selection([], topic.name, 0, 0, "labels" if features is None else "features")
    frames = _Frames()
    before: RawSegmentation | None = None
    for number, recorded_ns, pixels in _images(bag, topic.name, selection):
        raw = segmenter.infer([segmenter.prepare(pixels)])[0]
        area = _road_like(raw, segmenter)
        if second is not None:
            other = second.infer([second.prepare(pixels)])[0]
            frames.disagreement.append(share_that_differs(raw, other, area))
        elif before is not None:
            frames.disagreement.append(share_that_differs(before, raw, _road_like(before, segmenter)))
        frames.numbers.append(number)
        frames.recorded_ns.append(recorded_ns)
        frames.uncertainty.append(1 - float(raw.confidence[area].mean()) / 255)
        answer = _label_grid(raw, len(segmenter.card.label_set)) if features is None else features.features
        frames.features.append(_unit(answer))
        frames.thumbnails.append(_thumbnail(pixels))
        before = raw
        on_frame(number)
    if not frames.numbers:
        raise InputError(
            f"{bag.path}: no image on {topic.name} can be decoded: {'; '.join(selection.rejected) or 'none'}"
        )
    if len(frames.disagreement) < len(frames.numbers):
        frames.disagreement.append(0.0)  # the last frame has none after it
    _choose(frames, count, second is not None, selection)
    return selection


def write_selection(bag: BagReader, selection: Selection, segmenter: Segmenter, out: Path) -> None:
    """Save the chosen images as PNG, a table of reasons (picks.csv) and a contact sheet.

    Raises:
        OSError: the folder cannot be written.
    """
    make_folder(out / "images")
    rank_of = {pick.frame: rank for rank, pick in enumerate(selection.picks)}
    tiles: dict[int, RgbImage] = {}
    for number, _, pixels in _images(bag, selection.topic, Selection([], "", 0, 0, "")):
        if number in rank_of:
            encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
            write_atomically(out / "images" / _file_name(number), encoded.tobytes())
            drawn = overlay(pixels, segmenter.segment(pixels).labels, segmenter.card.label_set)
            height = max(1, round(pixels.shape[0] * _TILE / pixels.shape[1]))
            tiles[rank_of[number]] = np.asarray(cv2.resize(drawn, (_TILE, height), interpolation=cv2.INTER_AREA))
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(
        ["file", "topic", "frame", "recorded_ns", "uncertainty", "disagreement", "novelty", "novelty_by", "reason"]
    )
    for pick in selection.picks:
        numbers = (f"{value:.4f}" for value in (pick.uncertainty, pick.disagreement, pick.novelty))
        name = f"images/{_file_name(pick.frame)}"
        rows.writerow(
            [name, selection.topic, pick.frame, pick.recorded_ns, *numbers, selection.novelty_by, pick.reason]
        )
    write_atomically(out / "picks.csv", table.getvalue().encode(errors="replace"))
    ordered = [(tiles[i], f"{p.frame}: {p.reason.partition(' (')[0]}") for i, p in enumerate(selection.picks)]
    grid = [ordered[start : start + _COLUMNS] for start in range(0, len(ordered), _COLUMNS)]
    sheet = contact_sheet(
        [[t for t, _ in row] for row in grid], [[c for _, c in row] for row in grid], tile_width=_TILE
    )
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    write_atomically(out / "contact_sheet.png", encoded.tobytes())


def _file_name(frame: int) -> str:
    return f"{frame:06d}.png"


def _images(bag: BagReader, topic: str, selection: Selection) -> Iterator[tuple[int, int, RgbImage]]:
    """Number, record time and pixels of every image; those that cannot be decoded are counted."""
    for number, message in enumerate(bag.messages([topic])):
        selection.frames += 1
        try:
            pixels = rgb_of(bag.decode(message), message.topic.type)
        except InputError as error:
            selection.rejected[str(error)] += 1
            continue
        yield number, message.stamp_ns, pixels


def _road_like(raw: RawSegmentation, segmenter: Segmenter) -> NDArray[np.bool_]:
    """Where a mistake matters most, bool [H, W]; the lower half where the network sees no road at all."""
    labels = segmenter.card.label_set
    ids = [*labels.drivable_ids, *(labels.id_of(name) for name in _ROAD_LIKE if name in labels.names)]
    area = np.isin(raw.labels, ids)
    if area.mean() < 0.01:
        area[area.shape[0] // 2 :] = True
    return area


def share_that_differs(one: RawSegmentation, other: RawSegmentation, area: NDArray[np.bool_]) -> float:
    """Of an area of `one`, bool [h, w], the share that `other`, of any size, gives another label; 0 to 1."""
    labels = resize_labels(other.labels, Size.of(one.labels))
    return float((one.labels != labels)[area].mean())


def _unit(feature: NDArray[np.float32]) -> NDArray[np.float16]:
    """The direction of a feature: length 1, flat; what overflowed in half precision counts as nothing."""
    flat = np.nan_to_num(feature.reshape(-1), nan=0.0, posinf=0.0, neginf=0.0)
    return (flat / max(float(np.linalg.norm(flat)), 1e-12)).astype(np.float16)


def _label_grid(raw: RawSegmentation, classes: int) -> NDArray[np.float32]:
    """Shares of the classes and mean confidence in each field of a grid, float32 [rows * columns * (classes + 1)]."""
    planes = [(raw.labels == number).astype(np.float32) for number in range(classes)]
    planes.append(raw.confidence.astype(np.float32) / 255)
    size = (_GRID[1], _GRID[0])
    return np.concatenate([cv2.resize(plane, size, interpolation=cv2.INTER_AREA).reshape(-1) for plane in planes])


def _thumbnail(pixels: RgbImage) -> NDArray[np.float32]:
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, _THUMBNAIL, interpolation=cv2.INTER_AREA), np.float32).reshape(-1)


def _ranks(values: list[float]) -> NDArray[np.float64]:
    """0 for the lowest to 1 for the highest; equal values get equal ranks."""
    ordered, places = np.unique(values, return_inverse=True)
    return places / max(1, len(ordered) - 1)


def _choose(frames: _Frames, count: int, by_second: bool, selection: Selection) -> None:
    features, thumbnails = np.stack(frames.features), np.stack(frames.thumbnails)
    # half of the frames lies between the two of each pair
    apart = 1 - np.einsum("ij,ij->i", features, np.roll(features, len(features) // 2, axis=0), dtype=np.float32)
    typical = max(float(np.median(apart)), 1e-3)
    value = (_ranks(frames.uncertainty) + _ranks(frames.disagreement)) / 2
    times = np.array(frames.recorded_ns, np.float64)
    length = max(1.0, float(times[-1] - times[0]))
    span = np.minimum(((times - times[0]) / length * count).astype(int), count - 1)
    taken: Counter[int] = Counter()
    distance: NDArray[np.float32] = np.ones(len(features), np.float32)  # cosine, to the nearest chosen one
    free = np.ones(len(features), bool)
    duplicate = np.zeros(len(features), bool)
    while free.any() and len(selection.picks) < count:
        novelty = np.minimum(distance / typical, 1.0)
        best = int(np.argmax(np.where(free, value + novelty, -1.0)))
        share = None if not selection.picks else float(distance[best]) / typical
        reason = _reason(frames, best, share, by_second, selection.novelty_by)
        selection.picks.append(
            Pick(
                frames.numbers[best],
                frames.recorded_ns[best],
                frames.uncertainty[best],
                frames.disagreement[best],
                float(distance[best]),
                reason,
            )
        )
        taken[int(span[best])] += 1
        distance = np.minimum(distance, _cosine_distances(features, best))
        alike = np.abs(thumbnails - thumbnails[best]).mean(axis=1) <= _SAME_PICTURE
        alike[best] = False
        duplicate |= alike & free
        free &= ~alike
        free[best] = False
        if taken[int(span[best])] >= 2:
            free &= span != span[best]
    selection.duplicates = int(duplicate.sum())


def _cosine_distances(features: NDArray[np.float16], one: int) -> NDArray[np.float32]:
    """Of every frame to one, 0 to 2, a few thousand at a time: NumPy multiplies no half precision quickly."""
    direction = features[one].astype(np.float32)
    blocks = (features[start : start + 4096].astype(np.float32) for start in range(0, len(features), 4096))
    return np.asarray(np.maximum(1 - np.concatenate([block @ direction for block in blocks]), 0.0), np.float32)


def _reason(frames: _Frames, best: int, share: float | None, by_second: bool, novelty_by: str) -> str:
    """The strongest of the three, with its number in parentheses, for which the contact sheet has no room.

    Args:
        share: the distance to the nearest chosen frame by the typical one of two frames; None for the first.
    """
    uncertainty, disagreement = frames.uncertainty[best], frames.disagreement[best]
    ranks = float(_ranks(frames.uncertainty)[best]), float(_ranks(frames.disagreement)[best])
    if share is not None and min(share, 1.0) > max(ranks):
        return f"unlike the frames chosen before (its {novelty_by}: {share:.2f} of the typical distance)"
    if ranks[0] >= ranks[1]:
        return f"unsure where the road may be (mean confidence {1 - uncertainty:.2f})"
    whom = "the second model" if by_second else "itself one frame later"
    return f"contradicts {whom} (on {disagreement:.1%} of the road-like area)"
