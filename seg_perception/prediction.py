"""Segments images, folders, videos, bags, cameras and URLs into files.

An image NAME gives labels/NAME.png (class ids), colors/NAME.png, confidence/NAME.png, drivable/NAME.png
(0 or 255) and overlay/NAME.png under the output folder; a folder's inner folders are kept. A video, bag,
camera or URL NAME gives NAME_overlay.mp4 and NAME_mask.mp4, which keep real time, and, where every frame
is asked for, those pictures of each under NAME/. With a calibrated camera a bird's-eye view stands beside them.
Images can also become a file of annotations, which a person corrects in CVAT, labelme or a tool that reads COCO.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import cv2

from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import InputError
from seg_perception.core.files import make_folder, real_path, user_path, write_atomically
from seg_perception.core.ground import LOWEST_LENS
from seg_perception.core.label_set import LabelSet
from seg_perception.core.optics import read_calibration
from seg_perception.core.types import RgbImage, Segmentation, Size
from seg_perception.core.visual import DEFAULT_OPACITY, BirdsEye, with_legend
from seg_perception.datasets.convert.exporting import Export, Labeled, ShapeSettings, export_type
from seg_perception.model import KINDS, Model, Result, load
from seg_perception.node_parameters import PictureSettings, picture_settings
from seg_perception.sources import Source, SourceKind, find_source, list_folder, pace
from seg_perception.video import VideoWriter


@dataclass(frozen=True, slots=True)
class PredictStep:
    """One result on the way.

    Attributes:
        file, files: which input it belongs to, from 1, and how many there are.
        frame, frames: its place in a film, from 1, and how many the film announces (0: unknown).
        result: what the model says.
    """

    file: int
    files: int
    frame: int
    frames: int
    result: Result


@dataclass(frozen=True, slots=True)
class PreLabel:
    """Annotations for a person to correct, beside the pictures.

    Attributes:
        format: cvat, labelme or coco.
        settings: what becomes a shape.

    Raises:
        SettingsError: an unknown format.
    """

    format: str
    settings: ShapeSettings = field(default_factory=ShapeSettings)

    def __post_init__(self) -> None:
        export_type(self.format)


def birds_eye(
    calibration: str | Path,
    height: float | None = None,
    pitch: float | None = None,
    settings: PictureSettings | None = None,
) -> Callable[[Result], RgbImage]:
    """What draws results of one camera from above, with the grid: for `predict(..., bird=...)`.

    Args:
        calibration: YAML as ROS's camera_calibration writes it.
        height: of the camera over the ground, meters; None: that of `settings`.
        pitch: degrees that it looks down; None: that of `settings`, or 0.
        settings: the grid, and how the mask is judged; `picture_settings` reads them from the node's file.

    Raises:
        InputError: no height of `core.ground.LOWEST_LENS` or more.
        OSError, SettingsError: the calibration cannot be read.
    """
    settings = settings or picture_settings(None)
    camera, mount = read_calibration(Path(calibration)), settings.meters.mount
    height = mount.height if height is None else height
    if not height >= LOWEST_LENS:
        raise InputError(
            f"a view from above needs the camera's height over the ground, {LOWEST_LENS:g} meters or more: height "
            "(--height), or ground.height in the parameter file"
        )
    mount = replace(mount, source="fixed", height=height, pitch=mount.pitch if pitch is None else pitch)
    grid, drivable = settings.meters.grid, settings.drivable

    @cache
    def drawing(label_set: LabelSet) -> BirdsEye:  # made with the first result: its classes are known then
        return BirdsEye(camera, mount, grid, label_set, drivable)

    def draw(result: Result) -> RgbImage:
        answer = Segmentation(result.labels, result.confidence)
        return drawing(result.label_set).picture(result.image, answer, result.drivable)

    return draw


@dataclass(slots=True)
class PredictReport:
    """What was done.

    Attributes:
        images: segmented images.
        films: segmented videos, bags, cameras and URLs.
        film_frames: their frames.
        faults: inputs that could not be used, or only in part, and why.
        left_out: files in folders that are neither images nor videos.
        notes: what was changed on the way, such as frames fitted into a video of another size.
        pre_labels: where annotations were written, and how many: a line; empty where none were asked for.
        interrupted: `stop` was set before the end.
        live: that was while a camera or live stream ran, which has no other end.
    """

    images: int = 0
    films: int = 0
    film_frames: int = 0
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pre_labels: str = ""
    interrupted: bool = False
    live: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """One source to segment, and its name in the output folder (without an ending)."""

    source: Source
    name: Path

    @property
    def is_film(self) -> bool:
        return self.source.kind.is_film


def predict(
    inputs: str | Path | int | Iterable[str | Path | int],
    out: str | Path,
    model: str | Path | Model | None = None,
    engine: str = "auto",
    size: str | Size | tuple[int, int] | None = None,
    threads: int = 0,
    drivable: DrivableSettings | None = None,
    opacity: float = DEFAULT_OPACITY,
    gif: bool = False,
    every_frame: bool = False,
    topic: str | None = None,
    limit: int | None = None,
    bird: Callable[[Result], RgbImage] | None = None,
    pre_label: PreLabel | str | None = None,
    stop: threading.Event | None = None,
    on_step: Callable[[PredictStep], object] = lambda _: None,
    on_start: Callable[[Model, int], object] = lambda _model, _files: None,
) -> PredictReport:
    """Segment images, folders, videos, bags, cameras or URLs and write pictures and videos.

    Inputs that cannot be used are listed in the report, and the rest is done.

    Args:
        inputs: one or several: paths, camera indices, URLs.
        out: folder of the results: of an image NAME labels/NAME.png, colors/, confidence/, drivable/ and overlay/; of
            a video, bag, camera or URL NAME_overlay.mp4 and NAME_mask.mp4.
        model: a model file, or a loaded `Model` (then its engine, size and drivable settings count); None: the
            shipped one.
        engine: as `load`.
        size: as `load`.
        threads: as `load`.
        drivable: as `load`.
        opacity: of the overlay, 0 (image only) to 1 (colors only).
        gif: write a video's overlay and mask as GIF instead of MP4.
        every_frame: write the pictures of every frame of a video, too.
        topic: the image topic of a bag; None takes /image or the only one.
        limit: at most so many frames of each video, bag, camera or URL; None: all.
        bird: draws a result from above (see `birds_eye`): also written then, as bird/NAME.png of an image
            and NAME_bird.mp4 of a video.
        pre_label: also write annotations of the images for a person to correct: "cvat", "labelme" or "coco", or a
            `PreLabel` with settings; films are refused then.
        stop: set it to end early; what was done so far is kept.
        on_step: is called after each image and frame.
        on_start: is called with the opened model and the number of files (or cameras, URLs) to segment.

    Raises:
        InputError: a wrong option, two inputs that would be written under one name, a film to be annotated, or an
            output folder that is an input, or whose labels are not of this function.
        FileNotFoundError, ModelError, EngineError, SettingsError: the model cannot be opened, see `load`.
        OSError: the output folder cannot be written.
    """
    if not 0.0 <= opacity <= 1.0:
        raise InputError(f"opacity {opacity} is not accepted: 0 (image only) to 1 (colors only) is")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is not accepted: at least 1 frame is")
    report = PredictReport()
    places = [inputs] if isinstance(inputs, (str, Path, int)) else list(inputs)
    folder = user_path(out)
    if folder.is_dir() and any(
        isinstance(p, (str, Path)) and user_path(p).is_dir() and user_path(p).samefile(folder) for p in places
    ):
        raise InputError(f"{folder}: the results would lie among the images: name another folder for them")
    jobs = list(_jobs(places, report, real_path(folder)))
    _check_names(jobs)
    if isinstance(pre_label, str):
        pre_label = PreLabel(pre_label)
    if pre_label is not None:
        _demand_images(jobs)
    if not all(job.is_film for job in jobs):
        _demand_own(folder)
    make_folder(folder)  # what cannot be made is better known before the work
    with ExitStack() as stack:
        opened = (
            model if isinstance(model, Model) else stack.enter_context(load(model, engine, size, threads, drivable))
        )
        on_start(opened, len(jobs))
        annotations = _writer(pre_label, folder, opened) if pre_label is not None else None
        work = _Work(
            opened, folder, opacity, gif, every_frame, topic, limit, bird, annotations, stop or threading.Event(),
            on_step, report,
        )  # fmt: skip
        for number, job in enumerate(jobs, 1):
            if work.stop.is_set():
                report.interrupted = True
                break
            try:
                work.film(job, number, len(jobs)) if job.is_film else work.image(job, number, len(jobs))
            except (InputError, OSError) as error:
                report.faults.append(str(error))
    if annotations is not None and pre_label is not None:
        report.pre_labels = f"{annotations.out}: {annotations.finish().text(pre_label.settings)}"
    return report


def _writer(pre_label: PreLabel, folder: Path, model: Model) -> Export:
    kind = export_type(pre_label.format)
    return kind(folder / kind.file_name, model.card.label_set, pre_label.settings)


def _demand_images(jobs: list[_Job]) -> None:
    films = [job.source for job in jobs if job.is_film]
    if films:
        more = f" and {len(films) - 1} more" if len(films) > 1 else ""
        raise InputError(
            f"{films[0]}{more}: annotations are made of images, and this is a {films[0].kind.value}; "
            "'seg-perception bag select' takes the frames of a bag that are worth labeling, of a video other tools do"
        )


def _demand_own(out: Path) -> None:
    """Somebody's own labels/, such as the truth of a dataset, are not overwritten: beside ours the other kinds lie."""
    there = [kind for kind in KINDS if (out / kind).is_dir() and any((out / kind).iterdir())]
    if there and len(there) < len(KINDS):
        raise InputError(
            f"{out}: {', '.join(there)} in it {'is' if len(there) == 1 else 'are'} not of this command (which writes "
            f"{', '.join(KINDS)}) and would be written over: name another folder"
        )


def _jobs(places: Iterable[str | Path | int], report: PredictReport, out: Path) -> Iterator[_Job]:
    """The sources to segment; what cannot be one is noted as a fault.

    Args:
        out: real path of the results, which are not looked at for images.
    """
    for place in places:
        try:
            source = find_source(place)
            if source.kind is not SourceKind.FOLDER:
                yield _Job(source, Path(source.name))
                continue
            assert isinstance(source.place, Path)
            real = real_path(source.place)
            results = source.place / out.relative_to(real) if real in out.parents else None
            listing = list_folder(source.place, results)
        except (InputError, OSError) as error:
            report.faults.append(str(error))
            continue
        if results is not None and results.exists():
            report.notes.append(f"{results}: not looked at for images, because the results go there")
        if listing.left_out:
            report.left_out.append(f"{source}: {listing.left_out_text()}")
        for path in sorted((*listing.images, *listing.videos)):
            kind = SourceKind.VIDEO if path in listing.videos else SourceKind.IMAGE
            yield _Job(Source(kind, path), path.relative_to(source.place).with_suffix(""))


def _check_names(jobs: list[_Job]) -> None:
    taken: dict[tuple[Path, bool], Source] = {}
    for job in jobs:
        if (first := taken.setdefault((job.name, job.is_film), job.source)) is not job.source:
            raise InputError(f"{first} and {job.source} would both be written as {job.name}: predict them apart")


@dataclass(frozen=True, slots=True)
class _Work:
    model: Model
    out: Path
    opacity: float
    gif: bool
    every_frame: bool
    topic: str | None
    limit: int | None
    bird: Callable[[Result], RgbImage] | None
    annotations: Export | None
    stop: threading.Event
    on_step: Callable[[PredictStep], object]
    report: PredictReport

    def image(self, job: _Job, number: int, total: int) -> None:
        assert isinstance(job.source.place, Path)
        result = self.model(job.source.place).named(str(job.name))
        from_above = None if self.bird is None else self.bird(result)
        result.save(self.out, self.opacity)
        if from_above is not None:
            path = self.out / "bird" / f"{job.name}.png"
            make_folder(path.parent)
            write_atomically(path, cv2.imencode(".png", cv2.cvtColor(from_above, cv2.COLOR_RGB2BGR))[1].tobytes())
        if self.annotations is not None:
            name = f"{job.name.as_posix()}{job.source.place.suffix}"  # as the annotator's tool knows the picture
            self.annotations.add(Labeled(job.source.place, result.labels, name))
        self.report.images += 1
        self.on_step(PredictStep(number, total, 1, 1, result))

    def film(self, job: _Job, number: int, total: int) -> None:
        fps, announced = pace(job.source, self.topic if job.source.kind is SourceKind.BAG else None)
        base = self.out / job.name
        make_folder(base.parent)
        ending = ".gif" if self.gif else ".mp4"
        count = 0
        with ExitStack() as stack:
            overlays = stack.enter_context(VideoWriter(base.with_name(f"{base.name}_overlay{ending}"), fps))
            masks = stack.enter_context(VideoWriter(base.with_name(f"{base.name}_mask{ending}"), fps))
            birds = None
            if self.bird is not None:
                birds = stack.enter_context(VideoWriter(base.with_name(f"{base.name}_bird{ending}"), fps))
            for count, result in enumerate(self._results(job.source), 1):
                seconds = (result.stamp_ns or 0) / 1e9
                # the legend of all classes: it has one size for all frames
                overlays.add(with_legend(result.overlay(self.opacity), result.label_set), seconds)
                masks.add(cv2.cvtColor(result.drivable, cv2.COLOR_GRAY2RGB), seconds)
                if birds is not None and self.bird is not None:
                    birds.add(self.bird(result), seconds)
                if self.every_frame:
                    result.save(base, self.opacity)
                self.on_step(PredictStep(number, total, count, announced, result))
                if self.stop.is_set() or count == self.limit:
                    break
        self.report.films += 1
        self.report.film_frames += count
        self._check_film(job.source, count, announced, overlays)

    def _results(self, source: Source) -> Iterator[Result]:
        return self.model.stream(source.place, self.topic if source.kind is SourceKind.BAG else None, self._fault)

    def _fault(self, text: str) -> None:
        self.report.faults.append(text)

    def _check_film(self, source: Source, count: int, announced: int, video: VideoWriter) -> None:
        self.report.interrupted |= self.stop.is_set()
        self.report.live |= self.stop.is_set() and source.kind in (SourceKind.CAMERA, SourceKind.URL)
        whole = count == self.limit or self.stop.is_set()
        if source.kind is SourceKind.VIDEO and not whole and count < 0.98 * announced - 1:
            # containers may announce a frame or two too many
            self.report.faults.append(f"{source}: only {count} of {announced} frames could be decoded")
        if video.fitted:
            self.report.notes.append(f"{source}: {video.fitted} frames of another size were fitted into the first's")
        if video.left_out:
            self.report.notes.append(
                f"{source}: {video.left_out} of {count} frames are not in the video ({video.fps:.4g} a second): "
                "others followed them too soon"
            )
        if video.shortened_s:
            self.report.notes.append(f"{source}: {video.shortened_s:.1f} s without frames were left out of the video")
