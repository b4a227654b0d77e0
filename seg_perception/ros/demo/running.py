"""The whole demo: a drive through the real node over real DDS, and what is shown of it."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.files import make_folder, model_file, real_path
from seg_perception.core.settings import check_seconds
from seg_perception.core.types import Size, parse_fields

if TYPE_CHECKING:
    from seg_perception.ros.demo.results import Summary
    from seg_perception.ros.demo.session import SessionReport

RECORDED = "demo.mcap"
DEFAULT_FRAMES = 90
"""Of the procedural drive, which has no end."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What to drive, and how. Without `bag` or `images` the drive is a procedural one, with exact truth.

    Attributes:
        bag: drive a bag's images instead.
        images: drive a folder's images instead, by name.
        labels: with `images`: a folder of truth, 8-bit PNGs of the same names.
        mapping: with `labels`: from their values to class ids, a shipped name or a YAML file.
        image_topic: of `bag`; None: /image, or the only one.
        truth_topic: of `bag`, mono8 class ids; None: /truth, if there.
        frames: at most so many; None: 90 of the procedural drive, else all.
        size: of the procedural drive's images.
        seed: of the procedural drive.
        fps: frames a second, of the procedural drive and of `images`.
        rate: at the drive's own pace, 2 is twice as fast.
        lockstep: wait for each answer before the next frame, so that every frame is scored, instead of keeping the
            drive's own pace, where frames that the engine cannot keep up with are superseded, as on the robot; None:
            with `bag` and `images`.
        model: an ONNX file, or the name of a shipped one; None: the default one.
        engine: what runs it, as `load`.
        node_timeout_s: how long the node may take to start, engine build included.
        gif: write overlay.gif instead of overlay.mp4.

    Raises:
        InputError: values that do not fit together or are out of range.
    """

    bag: str | Path | None = None
    images: str | Path | None = None
    labels: str | Path | None = None
    mapping: str | Path | None = None
    image_topic: str | None = None
    truth_topic: str | None = None
    frames: int | None = None
    size: str | Size | tuple[int, int] = "640x480"
    seed: int = 17
    fps: float = 15.0
    rate: float = 1.0
    lockstep: bool | None = None
    model: str | Path | None = None
    engine: str = "auto"
    node_timeout_s: float = 300.0
    gif: bool = False

    def __post_init__(self) -> None:
        parse_fields(self, size=Size.parse)
        if self.bag is not None and self.images is not None:
            raise InputError("bag and images were both given: one of them is driven")
        if (self.labels is None) != (self.mapping is None):
            raise InputError("labels and mapping belong together: the PNGs, and what their values mean")
        if self.labels is not None and self.images is None:
            raise InputError("labels go with images; a bag's truth is a topic of it (truth topic)")
        if (self.image_topic is not None or self.truth_topic is not None) and self.bag is None:
            raise InputError("image topic and truth topic go with a bag")
        if self.frames is not None and self.frames < 1:
            raise InputError(f"frames {self.frames} is not accepted: at least 1")
        if not 0 < self.rate < math.inf:
            raise InputError(f"rate {self.rate} is not accepted: it must be greater than 0")
        check_seconds(self.node_timeout_s, "a node timeout of")

    @property
    def in_lockstep(self) -> bool:
        return self.bag is not None or self.images is not None if self.lockstep is None else self.lockstep


@dataclass(frozen=True, slots=True)
class _Drive:
    """A bag to drive, and words for it."""

    bag: Path
    description: str
    image_topic: str
    truth_topic: str | None
    compressed: bool = False
    faults: tuple[str, ...] = ()  # files that could not be driven
    camera_height: float | None = None  # of an exactly known camera, whose camera_info the bag holds


def demo(
    out: str | Path = "out",
    settings: DemoSettings | None = None,
    progress: bool = False,
    stop: threading.Event | None = None,
    on_remark: Callable[[str], object] = lambda _: None,
) -> Summary | None:
    """Drive through the real node over real DDS, in a process of its own, and show what it published.

    Args:
        out: folder of the results: demo.mcap (images, truth, labels, mask, overlay), overlay.mp4, contact_sheet.png,
            summary.json, node.log; of the procedural drive, whose camera is exactly known, birdseye.png, too.
        settings: what is driven, and how; None: the procedural drive with the shipped model.
        progress: show bars.
        stop: set it to end early.
        on_remark: is told what is waited for, and what is left out.

    Returns:
        The demo in numbers; its `remarks` say what is not as it should be. None where it was stopped.

    Raises:
        FileNotFoundError: no such bag, folder or model.
        InputError: the results would be written over the source, or no image can be read.
        DatasetError, SettingsError: folder and labels do not fit, or a number is out of range.
        EngineError: the node ended, or did not answer.
    """
    from seg_perception.ros.context import check_domain

    check_domain()  # what would end the drive, a missing rclpy too, is said before one is drawn
    settings, stop, out = settings or DemoSettings(), stop or threading.Event(), Path(out)
    recorded = out / RECORDED
    for source in (Path(given) for given in (settings.bag, settings.images, settings.labels) if given is not None):
        same = source.exists() and recorded.exists() and source.samefile(recorded)
        if same or real_path(source) in (real_path(out), real_path(recorded)):
            raise InputError(f"the demo would write its results over {source}: name another folder for them")
    make_folder(out)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=out) as work:
        if settings.bag is not None:
            drive = _drive_of_bag(Path(settings.bag), settings)
        else:
            found = _make_drive(Path(work) / "drive.mcap", settings, progress, stop, on_remark)
            if found is None:
                return None
            drive = found
        session = _run(drive, settings, recorded, progress, stop, on_remark)
        if session.interrupted:
            on_remark(f"interrupted; {recorded} has what was driven so far")
            return None
        return _show(drive, settings, out, session)


def _drive_of_bag(path: Path, settings: DemoSettings) -> _Drive:
    from seg_perception.bags.messages import COMPRESSED_IMAGE, IMAGE_TOPIC, IMAGE_TYPES, TRUTH_TOPIC
    from seg_perception.bags.reader import BagReader

    with BagReader(path) as bag:
        image = settings.image_topic or bag.topic_of_type(IMAGE_TYPES, "image topic (--topic)", IMAGE_TOPIC).name
        there = TRUTH_TOPIC in {topic.name for topic in bag.topics}
        truth = settings.truth_topic or (TRUTH_TOPIC if there else None)
        if truth is not None:
            bag.topic(truth)
        return _Drive(path, f"bag {path}", image, truth, bag.topic(image).type == COMPRESSED_IMAGE)


def _make_drive(
    bag: Path,
    settings: DemoSettings,
    progress: bool,
    stop: threading.Event,
    on_remark: Callable[[str], object],
) -> _Drive | None:
    """Render or gather the drive into a bag, so that nothing but playing happens while it is driven; None: stopped."""
    from tqdm import tqdm

    from seg_perception.bags.making import FolderDrive, SceneDrive, write_drive
    from seg_perception.bags.messages import IMAGE_TOPIC, TRUTH_TOPIC
    from seg_perception.core.label_set import load_label_mapping

    drive: FolderDrive | SceneDrive
    truth, height = True, None
    if settings.images is not None:
        truth = settings.labels is not None
        drive = FolderDrive(
            Path(settings.images),
            Path(settings.labels) if settings.labels is not None else None,
            load_label_mapping(settings.mapping) if settings.mapping is not None else None,
            settings.fps,
            settings.frames,
            keep_going=True,
        )
        words = f"images of {settings.images}"
        if drive.left_out:
            on_remark(f"left out, no images: {', '.join(drive.left_out)}")
    else:
        size = Size.parse(settings.size)
        drive = SceneDrive(settings.seed, size, settings.fps, settings.frames or DEFAULT_FRAMES)
        words, height = f"procedural drive, seed {settings.seed}", drive.camera_height
    bar = tqdm(write_drive(drive, bag), total=len(drive), unit="frame", desc="prepare the drive", disable=not progress)
    for _ in bar:
        if stop.is_set():
            return None
    faults = tuple(drive.faults) if isinstance(drive, FolderDrive) else ()
    if len(faults) == len(drive):
        raise InputError(f"none of the {len(faults)} images can be read:\n  " + "\n  ".join(faults))
    described = f"{words}, {settings.fps:g} Hz"
    return _Drive(bag, described, IMAGE_TOPIC, TRUTH_TOPIC if truth else None, faults=faults, camera_height=height)


def _run(
    drive: _Drive,
    settings: DemoSettings,
    recorded: Path,
    progress: bool,
    stop: threading.Event,
    on_remark: Callable[[str], object],
) -> SessionReport:
    """Start the node, drive through it, and end it."""
    from tqdm import tqdm

    from seg_perception.bags.messages import INFO_TOPIC
    from seg_perception.bags.reader import BagReader
    from seg_perception.ros.context import NodeProcess, environment, large_images, own_domain
    from seg_perception.ros.demo.session import SessionSettings, drive_session

    parameters = {"model": str(real_path(model_file(settings.model))), "engine": settings.engine}
    if drive.compressed:
        parameters["input"] = "compressed"
    if drive.camera_height is not None:  # the rendered town has an exact camera: the grid is shown, too
        parameters |= {"ground.source": "fixed", "ground.height": str(drive.camera_height)}
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    session_settings = SessionSettings(
        drive.image_topic,
        drive.truth_topic,
        settings.in_lockstep,
        settings.rate,
        settings.frames,
        settings.node_timeout_s,
        info_topic=None if drive.camera_height is None else INFO_TOPIC,
    )
    with (
        environment(own_domain() | large_images()),
        BagReader(drive.bag) as bag,
        NodeProcess(recorded.with_name("node.log"), arguments) as node,
    ):
        frames = bag.topic(drive.image_topic).count
        total = min(frames, settings.frames or frames)
        with tqdm(total=total, unit="frame", desc="drive", disable=not progress) as bar:
            session = drive_session(
                bag,
                recorded,
                node,
                session_settings,
                stop,
                on_waiting=lambda text: on_remark(f"waiting for {text}"),
                on_frame=lambda answered: bar.update(answered - bar.n),
            )
        if not session.answered and not session.interrupted:
            raise EngineError(f"the node answered none of {session.published} frames; its log ends:\n{node.log_tail()}")
        return session


def _show(drive: _Drive, settings: DemoSettings, out: Path, session: SessionReport) -> Summary:
    """Write the pictures and the summary."""
    from seg_perception.bags.messages import rgb_of
    from seg_perception.bags.reader import BagReader
    from seg_perception.core.files import write_atomically
    from seg_perception.engines.graph.model_file import read_card
    from seg_perception.ros.demo import results
    from seg_perception.ros.demo.from_above import from_above

    card = read_card(model_file(settings.model))
    recorded, video = out / RECORDED, out / ("overlay.gif" if settings.gif else "overlay.mp4")
    sheet, birds_eye, summary_file = out / "contact_sheet.png", out / "birdseye.png", out / "summary.json"
    files = [recorded, video, sheet, summary_file]
    with BagReader(recorded) as bag:
        scored = results.score_published(bag, card.label_set)
        above = from_above(bag, drive.camera_height)
        fitted = results.write_video(bag, video, above).fitted
        results.write_contact_sheet(bag, sheet, card.label_set, above=above)
        if above is not None and results.write_birds_eye(bag, birds_eye, above):
            files.insert(3, birds_eye)
        first = next(bag.messages((results.image_topic(bag),)))
        size = Size.of(rgb_of(bag.decode(first), first.topic.type))
    real_time = f"real time x {settings.rate:g}"
    summary = results.Summary(
        drive=drive.description,
        pace="lockstep: each frame waits for the answer before" if settings.in_lockstep else real_time,
        size=str(size),
        model=card.id,
        session=session,
        scored=scored,
        label_set=card.label_set,
        files=tuple(files),
        faults=drive.faults,
        fitted=fitted,
    )
    write_atomically(summary_file, summary.to_json().encode())
    return summary
