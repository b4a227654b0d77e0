"""What the demo shows of its recorded bag: video, contact sheet, scores, summary."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from seg_perception.bags.messages import INPUT_TOPICS, TRUTH_TOPIC, output_topic
from seg_perception.core.errors import EngineError
from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.core.metrics import drivable_iou, percent, score_table
from seg_perception.core.types import UNLABELED, RgbImage
from seg_perception.core.visual import beside, colorize, contact_sheet, legend
from seg_perception.video import VideoWriter

if TYPE_CHECKING:
    from seg_perception.bags.reader import BagReader
    from seg_perception.bags.scoring import BagScore
    from seg_perception.ros.demo.from_above import FromAbove
    from seg_perception.ros.demo.session import SessionReport

LABELS, DRIVABLE, OVERLAY = (output_topic(name) for name in ("labels", "drivable", "overlay"))

_IN_MASK = 255


@dataclass(frozen=True, slots=True)
class Scored:
    """How the published answers compare with the truth.

    Attributes:
        labels: the label topic against the truth, all frames that have both.
        mask_iou: IoU of the published mask with the drivable classes of the truth, 0 to 1 or NaN.
    """

    labels: BagScore
    mask_iou: float


def score_published(bag: BagReader, label_set: LabelSet) -> Scored | None:
    """Score what the node published; None if the drive has no truth."""
    from seg_perception.bags.scoring import LabelPairs, score_bag

    if TRUTH_TOPIC not in {topic.name for topic in bag.topics}:
        return None
    score = score_bag(bag, LABELS, TRUTH_TOPIC, label_set)
    hits = union = 0
    for _, mask, truth in LabelPairs(bag, DRIVABLE, TRUTH_TOPIC):
        said = (mask == _IN_MASK) & (truth != UNLABELED)  # pixels without truth are not counted
        right = np.isin(truth, label_set.drivable_ids)
        hits += int((said & right).sum())
        union += int((said | right).sum())
    return Scored(score, hits / union if union else math.nan)


def write_video(bag: BagReader, path: Path, above: FromAbove | None = None) -> VideoWriter:
    """Write the overlay topic as a video in real time; returns the writer, which knows what it changed.

    Beside the overlay stands the drive from above, where that is given.

    Where an image has no overlay (it was superseded) the one before stands still, as on a display; before the
    first overlay the camera's image is shown. Images of other sizes are fitted into the first one's.
    """
    from seg_perception.bags.messages import rgb_of

    with VideoWriter(path, frame_rate(bag)) as video:
        shown: RgbImage | None = None
        overlays = bag.messages((OVERLAY,))
        following = next(overlays, None)
        for message in bag.messages((image_topic(bag),)):
            while following is not None and following.stamp_ns <= message.stamp_ns:
                shown = rgb_of(bag.decode(following), following.topic.type)
                shown = shown if above is None else above.attached(following.stamp_ns, shown)
                following = next(overlays, None)
            image = shown
            if image is None:
                image = rgb_of(bag.decode(message), message.topic.type)
                image = image if above is None else above.attached(message.stamp_ns, image)
            video.add(image, message.stamp_ns / 1e9)
    return video


def image_topic(bag: BagReader) -> str:
    """The topic of the images that were driven."""
    return next(topic.name for topic in bag.topics if topic.name in INPUT_TOPICS.values())


def frame_rate(bag: BagReader) -> float:
    """Frames a second of the images, by the median time between their stamps; 15 for a single image."""
    stamps = sorted(message.stamp_ns for message in bag.messages((image_topic(bag),)))
    intervals = [after - before for before, after in pairwise(stamps) if after > before]
    return min(120.0, 1e9 / statistics.median_low(intervals)) if intervals else 15.0


def write_contact_sheet(
    bag: BagReader, path: Path, label_set: LabelSet, moments: int = 5, above: FromAbove | None = None
) -> None:
    """Camera, overlay, labels, mask, truth and the view from above at several moments of the drive, with a legend.

    Raises:
        EngineError: the bag holds no labels.
    """
    stamps = [message.stamp_ns for message in bag.messages((LABELS,))]
    if not stamps:
        raise EngineError(f"{bag.path}: the node published no labels")
    if above is not None:
        stamps = [stamp_ns for stamp_ns in stamps if stamp_ns in above.stamps] or stamps
    chosen = sorted({stamps[round(i * (len(stamps) - 1) / max(1, moments - 1))] for i in range(moments)})
    rows, captions = [], []
    for stamp_ns in chosen:
        row = list(_pictures_at(bag, stamp_ns, label_set))
        bird = None if above is None else above.picture(stamp_ns, row[0][1])
        row += [] if bird is None else [("from above", _as_wide_as(row[0][1], bird))]
        rows.append([picture for _, picture in row])
        seconds = (stamp_ns - bag.start_ns) / 1e9
        captions.append([f"{name}  {seconds:.2f} s" if name == "camera" else name for name, _ in row])
    sheet = contact_sheet(rows, captions, tile_width=400)
    key = legend(label_set, height=28)
    height = max(sheet.shape[0], key.shape[0])
    both = np.full((height, sheet.shape[1] + key.shape[1], 3), 245, np.uint8)
    both[: sheet.shape[0], : sheet.shape[1]] = sheet
    both[: key.shape[0], sheet.shape[1] :] = key
    _write_png(path, both)


def write_birds_eye(bag: BagReader, path: Path, above: FromAbove) -> bool:
    """The moment in the middle of the drive: overlay, and the ground from above; False where there is none."""
    overlays = {message.stamp_ns: message for message in bag.messages((OVERLAY,))}
    stamps = sorted(overlays.keys() & set(above.stamps))
    if not stamps:
        return False
    from seg_perception.bags.messages import rgb_of

    middle = stamps[len(stamps) // 2]
    message = overlays[middle]
    camera = next(bag.messages((image_topic(bag),), start_ns=middle, stop_ns=middle + 1))
    overlay = rgb_of(bag.decode(message), message.topic.type)
    bird = above.picture(middle, rgb_of(bag.decode(camera), camera.topic.type))
    assert bird is not None
    margin = np.full((bird.shape[0], 8, 3), 255, np.uint8)
    _write_png(path, beside(bird, margin, overlay))
    return True


def _as_wide_as(image: RgbImage, picture: RgbImage) -> RgbImage:
    """A picture with margins at its sides, in the shape of an image."""
    missing = max(0, round(picture.shape[0] * image.shape[1] / image.shape[0]) - picture.shape[1])
    return np.pad(picture, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)), constant_values=245)


def _write_png(path: Path, picture: RgbImage) -> None:
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    write_atomically(path, encoded.tobytes())


def _pictures_at(bag: BagReader, stamp_ns: int, label_set: LabelSet) -> Iterator[tuple[str, RgbImage]]:
    from seg_perception.bags.messages import labels_of, rgb_of

    image = image_topic(bag)
    names = {image: "camera", OVERLAY: "overlay", LABELS: "labels", DRIVABLE: "drivable mask", TRUTH_TOPIC: "truth"}
    wanted = [topic.name for topic in bag.topics if topic.name in names]
    found = {m.topic.name: m for m in bag.messages(wanted, start_ns=stamp_ns, stop_ns=stamp_ns + 1)}
    for topic, name in names.items():
        if (message := found.get(topic)) is None:
            continue
        decoded = bag.decode(message)
        if topic in (image, OVERLAY):
            yield name, rgb_of(decoded, message.topic.type)
        elif topic == DRIVABLE:
            yield name, cv2.cvtColor(labels_of(decoded, message.topic.type), cv2.COLOR_GRAY2RGB)
        else:
            yield name, colorize(labels_of(decoded, message.topic.type), label_set)


def percentile_ms(seconds: list[float], percent_: float) -> float:
    """The smallest value that so many percent of the values do not exceed, in milliseconds; NaN without values."""
    if not seconds:
        return math.nan
    return 1000 * sorted(seconds)[max(0, math.ceil(len(seconds) * percent_ / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Summary:
    """The demo in numbers.

    Attributes:
        drive: what was driven, in words.
        pace: how, in words.
        size: of the images.
        model: model card id.
        session: frames and times.
        scored: None without truth.
        label_set: of the model.
        files: what was to be written.
        faults: images that could not be driven, and why.
        fitted: frames of another size than the first, which were fitted into the video.
    """

    drive: str
    pace: str
    size: str
    model: str
    session: SessionReport
    scored: Scored | None
    label_set: LabelSet
    files: tuple[Path, ...]
    faults: tuple[str, ...] = ()
    fitted: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether everything was driven, written and accounted for; superseded frames are."""
        return not self._doubts()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is worth knowing beside the numbers; more than `is_sound` judges."""
        fitted = f"{self.files[1]}: {self.fitted} frames of another size than the first were fitted into it"
        return (*([fitted] if self.fitted else ()), *self._doubts())

    def _doubts(self) -> list[str]:
        found, session = [], self.session
        if self.faults:
            found.append("\n  ".join([f"{len(self.faults)} images could not be driven:", *self.faults]))
        if missing := [str(path) for path in self.files if not path.is_file() or not path.stat().st_size]:
            found.append(f"not written: {', '.join(missing)}")
        if session.unknown_stamps:
            found.append(f"{session.unknown_stamps} messages came with a stamp that no image had")
        if session.account is not None and not session.account.adds_up:
            found.append("the node's account does not add up")
        return found

    @property
    def unanswered(self) -> int:
        return self.session.published - self.session.answered

    def text(self) -> str:
        """For people."""
        session = self.session
        latency = ", ".join(f"p{p} {percentile_ms(session.latency_s, p):.1f} ms" for p in (50, 95))
        rows = [
            ("drive", f"{self.drive}, {self.size}"),
            ("model", self.model),
            ("pace", self.pace),
            ("frames in", f"{session.published}"),
            ("frames out", f"{session.answered}{self._loss()}"),
            ("rate out", f"{session.answered / session.seconds:.1f} Hz" if session.seconds else "-"),
            ("node counts", self._account()),
            ("latency", f"{latency} (image published to labels received, through DDS both ways)"),
        ]
        lines = [f"{name:<14}{value}" for name, value in rows]
        if self.scored is None:
            lines.append(f"{'scores':<14}none: this drive has no ground truth")
        else:
            counts = self.scored.labels.matrix.counts
            road = percent(drivable_iou(counts, self.label_set))
            lines += [
                f"{'mean IoU':<14}{percent(self.scored.labels.matrix.scores().mean_iou)}",
                f"{'road IoU':<14}{road} (drivable classes of the labels), {percent(self.scored.mask_iou)} (mask)",
                "",
                f"What the node published against the truth, {self.scored.labels.matched} frames:",
                score_table(counts, self.label_set),
            ]
        return "\n".join([*lines, "", "written:", *(f"  {path}" for path in self.files)])

    def _loss(self) -> str:
        if not self.unanswered:
            return " (every frame)"
        account = self.session.account
        if account is None or account.superseded + account.lost_before_node < self.unanswered:
            return f" ({self.unanswered} without an answer: see the node's account and its log)"
        return (
            f" ({self.unanswered} superseded by newer frames while the engine was busy: on this machine it is slower "
            "than this camera; --lockstep waits for it)"
        )

    def _account(self) -> str:
        account = self.session.account
        if account is None:
            return "no diagnostics came"
        flight = f" + in flight {account.in_flight}" if account.in_flight else ""
        lost = f"; {account.lost_before_node} dropped on the way to it" if account.lost_before_node else ""
        count = self.session.warm_up_frames
        warm_up = f"{count} warm-up frame{'s' if count != 1 else ''}"
        return (
            f"received {account.received} {'=' if account.adds_up else '!='} published {account.published} "
            f"+ superseded {account.superseded} + rejected {account.rejected} + failed {account.failed}{flight} "
            f"(with {warm_up}){lost}"
        )

    def to_json(self) -> str:
        """For machines; fractions in 0 to 1, times in milliseconds, null where there is nothing to say."""
        session, account = self.session, self.session.account
        document: dict[str, Any] = {
            "drive": self.drive,
            "pace": self.pace,
            "size": self.size,
            "model": self.model,
            "frames_in": session.published,
            "frames_out": session.answered,
            "frames_unanswered": self.unanswered,
            "messages_out": session.outputs,
            "messages_lost": session.lost,
            "node": None if account is None else asdict(account) | {"of_them_warm_up": session.warm_up_frames},
            "messages_with_unknown_stamp": session.unknown_stamps,
            "seconds": session.seconds,
            "latency_ms": {f"p{p}": _number(percentile_ms(session.latency_s, p)) for p in (50, 95, 99)},
            "latest_publish_ms": 1000 * session.latest_s,
            "scores": None,
            "files": [str(path) for path in self.files],
        }
        if self.scored is not None:
            scores = self.scored.labels.matrix.scores()
            document["scores"] = {
                "frames": self.scored.labels.matched,
                "mean_iou": _number(scores.mean_iou),
                "drivable_iou": _number(drivable_iou(self.scored.labels.matrix.counts, self.label_set)),
                "drivable_mask_iou": _number(self.scored.mask_iou),
                "pixel_accuracy": _number(scores.pixel_accuracy),
                "iou": {c.name: _number(scores.iou[c.id]) for c in self.label_set.classes},
            }
        return json.dumps(document, indent=2) + "\n"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
