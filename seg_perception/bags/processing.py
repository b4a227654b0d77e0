"""Segments every frame of a bag, offline: as fast as the engine goes, the same answer every time."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from seg_perception.bags import messages
from seg_perception.bags.journal import Journal
from seg_perception.bags.locating import OutputLock, partial_path, writer_of
from seg_perception.bags.messages import IMAGE_TOPIC, IMAGE_TYPES, decode, rgb_of, standard_definition
from seg_perception.bags.meters import BagMeters, meters_outputs
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import CDR, BagMessage, OfferedQos, Storage, Topic, TypeDefinition
from seg_perception.bags.writer import BagWriter, check_apart
from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.errors import InputError
from seg_perception.core.files import model_file
from seg_perception.core.image_message import raw_of
from seg_perception.core.meters import MetersSettings
from seg_perception.core.types import RgbImage, Size, parse_fields
from seg_perception.core.visual import DEFAULT_OPACITY
from seg_perception.engines.opening import open_engine
from seg_perception.node_outputs import Answer, image_outputs
from seg_perception.node_settings import NODE_NAME, OverlaySettings
from seg_perception.segmenter import RawSegmentation, Segmenter

_PREFIX = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)*")


def default_outputs() -> tuple[str, ...]:
    """Those that it is given unless others are asked for."""
    return tuple(row.name for row in image_outputs().values() if row.processed)


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What to segment and what to write.

    Attributes:
        images: image topics (Image or CompressedImage); empty: /image, or the only one.
        prefix: output topics are PREFIX/labels and so on, as the node names them; with several image topics
            PREFIX/CAMERA/labels, CAMERA being "front" for /front/image.
        outputs: "labels", "confidence", "drivable", "color", "overlay" (names of `node_outputs.image_outputs`).
        drivable: how the mask is judged; one masker for each image topic.
        camera_drivable: the same for single cameras, by `camera_name`; the others take `drivable`.
        opacity: of the overlay.
        meters: where the cameras were; with a source the outputs in meters are written, too.
    """

    images: tuple[str, ...] = ()
    prefix: str = f"/{NODE_NAME}"
    outputs: tuple[str, ...] = field(default_factory=default_outputs)
    drivable: DrivableSettings = field(default_factory=DrivableSettings)
    camera_drivable: Mapping[str, DrivableSettings] = field(default_factory=dict)
    opacity: float = DEFAULT_OPACITY
    meters: MetersSettings = field(default_factory=MetersSettings)

    def __post_init__(self) -> None:
        parse_fields(self)
        if unknown := [name for name in self.outputs if name not in image_outputs()]:
            raise InputError(f"outputs {', '.join(unknown)} are not known; accepted: {', '.join(image_outputs())}")
        if not _PREFIX.fullmatch(self.prefix):
            raise InputError(
                f"prefix {self.prefix!r} is not accepted: parts of letters, digits and underscores, each after a slash "
                "and not beginning with a digit, as in '/car/segmentation_node'"
            )


@dataclass(slots=True)
class ProcessReport:
    """What was done.

    Attributes:
        frames: images read.
        resumed: of these, segmented by an earlier attempt that was stopped.
        rejected: images that could not be decoded, by reason; they have no outputs.
        replaced: topics of the input that the outputs replaced.
        without_meters: images whose place was not known, by reason; they have no grid and no points.
        notes: what was guessed or left out, one sentence each.
    """

    frames: int = 0
    resumed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    replaced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    without_meters: Counter[str] = field(default_factory=Counter)

    @property
    def segmented(self) -> int:
        """Images that have outputs."""
        return self.frames - sum(self.rejected.values())


def journal_path(out: Path) -> Path:
    """Where the finished frames of an unfinished job are kept."""
    return out.with_name(out.name + ".journal")


def process_bag(
    source: str | Path,
    out: str | Path,
    settings: ProcessSettings | None = None,
    *,
    model: str | Path | None = None,
    engine: str = "auto",
    size: str | Size | tuple[int, int] | None = None,
    threads: int = 0,
    overwrite: bool = False,
    on_open: Callable[[str, int], object] = lambda _text, _total: None,
    on_message: Callable[[BagMessage], object] = lambda _: None,
) -> ProcessReport:
    """Segment every frame of a bag: `seg-perception bag process` as one call.

    Args:
        source: the bag to read.
        out: the bag to write: x.mcap, x.db3, or a folder's name.
        settings: what to segment and write; the defaults of `ProcessSettings` unless given.
        model: ONNX file; the shipped model unless given.
        engine: what runs it, as `load`.
        size: what the network sees, such as "640x352" or (640, 352); by default the camera's shape at the
            model's pixel count.
        threads: CPU threads of the engine; 0 means all cores.
        overwrite: replace `out`.
        on_open: told once what runs, in words, and how many messages the input has.
        on_message: called after each message of the input.

    Raises:
        FileNotFoundError, ModelError, EngineError: no such bag; the model or the engine, see `open_engine`.
        InputError: the bag, a topic or the size; a journal of another job; `out` is `source`.
        SettingsError: the mask's settings name a class that the model does not have.
        FileExistsError: `out` exists and `overwrite` is false, or another process writes it.
        OSError: the bag cannot be read, or the new one not written.
    """
    source, out, model = Path(source), Path(out), model_file(model)
    wanted = None if size is None else Size.parse(size)
    settings = settings or ProcessSettings()
    _check_output(source, out, overwrite)
    with BagReader(source) as bag:  # what is wrong is known before an engine is built
        total = bag.message_count
        _cameras(bag, settings)
    opened = open_engine(model, engine, threads, size=wanted)
    try:
        description = f"{opened.card.id} with {opened.info}"
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        on_open(description, total)
        return segment_bag(
            source,
            out,
            Segmenter(opened, wanted),
            settings,
            f"{description}; model {digest}; input size {wanted or 'automatic'}",
            overwrite,
            on_message,
        )
    finally:
        opened.close()


def segment_bag(
    source: Path,
    out: Path,
    segmenter: Segmenter,
    settings: ProcessSettings,
    identity: str,
    overwrite: bool = False,
    on_message: Callable[[BagMessage], object] = lambda _: None,
) -> ProcessReport:
    """Copy a bag and add what the network says of every image.

    All other topics are kept byte for byte. An output message has its image's header and record
    time. The result depends on the inputs only: killed half-way and started again with the same
    arguments, the job skips the frames that were done and writes the same bag. `out` appears when
    it is complete; until then there are `<out>.partial` and `<out>.journal`.

    Args:
        source: the bag to read.
        out: the bag to write, see `BagWriter`.
        segmenter: segments one image at a time (a batch could change its last bits).
        settings: what to segment and write.
        identity: names the model file and the engine, to tell whether a journal fits.
        overwrite: replace `out`.
        on_message: called after each message of the input.

    Raises:
        FileNotFoundError, InputError: the bag, or a topic; a journal of another job; `out` is `source`.
        FileExistsError: `out` exists and `overwrite` is false, or another process writes it.
        EngineError: the engine failed.
    """
    _check_output(source, out, overwrite)
    with BagReader(source) as bag:
        cameras = _cameras(bag, settings)
        if bag.start_ns < 0 and Storage.of(out) is not Storage.SQLITE3:
            raise InputError(f"{source} was recorded before 1970, which MCAP cannot hold: name the output x.db3")
        types = {f"{prefix}/{name}": messages.IMAGE for prefix in cameras.values() for name in settings.outputs}
        maskings = {name: settings.camera_drivable.get(camera_name(name), settings.drivable) for name in cameras}
        meters = BagMeters(
            bag,
            settings.meters,
            cameras,
            {name: camera_name(name) for name in cameras},
            settings.prefix,
            tuple(meters_outputs()),
            segmenter.card.label_set,
            maskings,
        )
        types |= meters.topics()
        outputs = set(types)
        report = ProcessReport(replaced=tuple(sorted(outputs & {topic.name for topic in bag.topics})))
        copied = {t.name: _definition(bag, t) for t in bag.topics if t.name not in outputs}
        report.notes = (*bag.notes, *(note for _, note in copied.values() if note))
        writer = BagWriter(out, overwrite=True)  # first: it locks the output, and with it the journal
        try:
            for topic in bag.topics:
                if topic.name in copied:
                    writer.add_topic(topic.name, copied[topic.name][0], topic.qos, topic.serialization)
            for name in sorted(outputs):
                writer.add_topic(name, types[name], OfferedQos())
            with Journal(journal_path(out), _job(source, identity, cameras)) as journal:
                with writer as written:
                    work = _Work(segmenter, settings, cameras, journal, written, report, maskings, meters)
                    for message in bag.messages():
                        if message.topic.name in copied:
                            written.write_raw(message.topic.name, message.stamp_ns, message.data)
                        if message.topic.name in cameras:
                            work.add_outputs(bag, message)
                        on_message(message)
                journal.remove()
        except BaseException:
            writer.abort()
            raise
    return report


def _check_output(source: Path, out: Path, overwrite: bool) -> None:
    """Refuse an output that could not be written after all the work."""
    check_apart(source, out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists already: move or remove it first")
    partial = partial_path(out)
    if writer := writer_of(partial):
        raise FileExistsError(f"{out} is being written by {writer}: wait until it is done, or stop it")
    if partial.exists() and not journal_path(out).exists() and not overwrite:
        raise FileExistsError(f"{partial} exists, left by another program's run: move or remove it first")
    if not partial.exists():
        OutputLock(out).release(remove=True)  # the folder can be made and written


def _definition(bag: BagReader, topic: Topic) -> tuple[TypeDefinition, str | None]:
    """The definition to write with a copied topic, and a note where there is none.

    A recording without definitions (SQLite of Humble and older) gets today's standard one only if all its
    messages can be read by it: an older ROS may have had another message of this name, and one with an empty list
    of what has changed can be read by both.
    """
    definition = topic.definition
    if definition.text or definition.foreign or topic.serialization != CDR or not topic.count:
        return definition, None
    try:
        standard = standard_definition(topic.type)
    except InputError:
        named = topic.type or "its messages"
        return definition, f"the input has no definition of {named}: {topic.name} is copied without one"
    try:
        for message in bag.messages([topic.name]):
            decode(message.data, replace(standard, digest=""))
    except InputError as error:
        return definition, (
            f"the input has no definition of {topic.type}, and today's does not fit ({error}): "
            f"{topic.name} is copied without one"
        )
    return standard, None


def camera_name(topic: str) -> str:
    """The node's name of the camera of an image topic: "front" of /front/image and /front/image/compressed.

    A topic that does not end so, such as /front/image_raw, keeps its whole name.
    """
    name = topic.strip("/").removesuffix("/compressed")
    return name.removesuffix("/image")


def _cameras(bag: BagReader, settings: ProcessSettings) -> dict[str, str]:
    """Image topic -> prefix of its outputs."""
    names = settings.images or (bag.topic_of_type(IMAGE_TYPES, "image topic", IMAGE_TOPIC).name,)
    for name in names:
        if (topic := bag.topic(name)).type not in IMAGE_TYPES:
            raise InputError(f"{bag.path}: topic {name} is a {topic.type}; images are {' or '.join(IMAGE_TYPES)}")
    if len(names) == 1:
        return {names[0]: settings.prefix}
    cameras = {name: f"{settings.prefix}/{camera_name(name)}" for name in names}
    if len(set(cameras.values())) < len(names):
        raise InputError(f"image topics {', '.join(names)}: two of them are the same camera; name one of each")
    return cameras


def _job(source: Path, identity: str, cameras: dict[str, str]) -> str:
    """Everything that a frame's raw segmentation depends on, in one line."""
    files = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
    return json.dumps(
        {
            "format": 1,
            "bag": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files],
            "images": list(cameras),
            "segmenter": identity,
        },
        sort_keys=True,
    )


class _Work:
    """Segments one image message after the other and writes its outputs."""

    def __init__(
        self,
        segmenter: Segmenter,
        settings: ProcessSettings,
        cameras: dict[str, str],
        journal: Journal,
        bag: BagWriter,
        report: ProcessReport,
        maskings: Mapping[str, DrivableSettings],
        meters: BagMeters,
    ) -> None:
        self._segmenter = segmenter
        self._settings = settings
        self._cameras = cameras
        self._maskers = {name: DrivableMasker(own, segmenter.card.label_set) for name, own in maskings.items()}
        self._meters = meters
        self._journal = journal
        self._bag = bag
        self._report = report

    def add_outputs(self, source: BagReader, message: BagMessage) -> None:
        frame = self._report.frames
        self._report.frames += 1
        try:
            decoded = source.decode(message)
            pixels = rgb_of(decoded, message.topic.type)
        except InputError as error:
            self._report.rejected[f"{message.topic.name}: {error}"] += 1
            return
        raw = self._raw_segmentation(frame, decoded, message.topic.type, pixels)
        segmentation = self._segmenter.finish(raw)
        # A temporal mask needs every frame, so it is computed even where it is not written.
        mask = self._maskers[message.topic.name].mask(segmentation, messages.stamp_ns_of(decoded))
        header = messages.header_of(decoded)
        drawing = OverlaySettings(self._settings.opacity)
        answer = Answer(header, lambda: pixels, segmentation, mask, self._segmenter.card, drawing, received_at=math.nan)
        for name in self._settings.outputs:
            topic = f"{self._cameras[message.topic.name]}/{name}"
            image = image_outputs()[name].make(answer)
            assert isinstance(image, np.ndarray)
            self._bag.write(topic, message.stamp_ns, messages.image(image, header))
        ignored = self._maskers[message.topic.name].ignored
        for topic, made in self._meters.make(message.topic.name, header, segmentation, mask, ignored):
            self._bag.write(topic, message.stamp_ns, made)
        self._report.without_meters = self._meters.without

    def _raw_segmentation(self, frame: int, message: Any, type_name: str, pixels: RgbImage) -> RawSegmentation:
        raw = self._journal.get(frame)
        if raw is not None:
            self._report.resumed += 1
            return raw
        prepared = None
        if self._segmenter.takes_camera_bytes and type_name == messages.IMAGE:
            with suppress(InputError):  # another encoding or size than the engine's: brought to it from RGB
                prepared = self._segmenter.prepare_raw(raw_of(message))
        raw = self._segmenter.infer([prepared or self._segmenter.prepare(pixels)])[0]
        self._journal.add(frame, raw)
        return raw
