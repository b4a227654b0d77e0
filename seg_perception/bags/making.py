"""Drives that are not bags yet, and how they become one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from seg_perception.bags import messages
from seg_perception.bags.messages import IMAGE_TOPIC, INFO_TOPIC, TRUTH_TOPIC
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import DatasetError, InputError, SettingsError
from seg_perception.core.image_file import IMAGE_SUFFIXES, image_files, read_rgb
from seg_perception.core.label_set import LabelMapping, load_label_mapping
from seg_perception.core.types import LabelImage, RgbImage, Size
from seg_perception.datasets.base import files_in
from seg_perception.datasets.folder import folder_pairs

FRAME_ID = "camera"

FIRST_STAMP_NS = 1_600_000_000 * 1_000_000_000
"""Stamp of a made drive's first frame (13 September 2020, 12:26:40 UTC): fixed, so that bags are reproducible."""


@dataclass(frozen=True, slots=True)
class ExactCamera:
    """A level pinhole camera: focal length and principal point in pixels."""

    focal: float
    center: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class DriveFrame:
    """One moment of a drive, from wherever.

    Attributes:
        stamp_ns: of the image, nanoseconds since 1970.
        image: uint8 [H, W, 3] RGB.
        truth: uint8 [H, W] class ids, 255 unlabeled; None when nobody knows.
        frame_id: of the camera.
        camera: its exact calibration; None when nobody knows.
    """

    stamp_ns: int
    image: RgbImage
    truth: LabelImage | None = None
    frame_id: str = FRAME_ID
    camera: ExactCamera | None = None


class DriveSource(Protocol):
    """Frames in the order of their stamps; can be iterated again and again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[DriveFrame]: ...


def stamp_of_frame(index: int, fps: float) -> int:
    """The stamp of a made drive's frame, in nanoseconds.

    Raises:
        SettingsError: fps is not a positive number.
    """
    if not 1e-6 <= fps < 100_000:  # stamps are 64 bits of nanoseconds
        raise SettingsError(f"fps is {fps}, it must be greater than 0 (0.000001 or more), and below 100000")
    return FIRST_STAMP_NS + round(index * 1_000_000_000 / fps)


class FolderDrive:
    """A folder of images in the order of their names, as the frames of a drive.

    Args:
        images: folder of images.
        labels: folder of 8-bit PNG label images with the same names; None: no truth.
        mapping: from the label files' values to class ids; needed with `labels`.
        fps: frames a second.
        limit: at most so many frames; None: all.
        keep_going: list a file that cannot be read in `faults` and go on, instead of raising.

    Attributes:
        faults: after iterating: files that could not be read, and why.
        left_out: names in the folder that are no images; hidden ones are not looked at.

    Raises:
        DatasetError: a folder is missing or empty, or an image has no label file.
        SettingsError: labels without a mapping, or a bad fps.
    """

    def __init__(
        self,
        images: Path,
        labels: Path | None,
        mapping: LabelMapping | None,
        fps: float,
        limit: int | None = None,
        keep_going: bool = False,
    ) -> None:
        if labels is not None and mapping is None:
            raise SettingsError("label images need a mapping to our class ids: give its name or YAML file")
        self.fps = fps
        stamp_of_frame(0, fps)
        self._pairs = folder_pairs(images, labels, mapping) if labels is not None and mapping is not None else None
        self._files = [] if self._pairs else files_in(images, IMAGE_SUFFIXES)
        self._keep_going = keep_going
        self.faults: list[str] = []
        self.left_out = tuple(path.name for path in image_files(images.iterdir())[1])
        self._length = min(len(self._pairs or self._files), limit or len(self._pairs or self._files))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[DriveFrame]:
        self.faults = []
        for index in range(len(self)):
            try:
                frame = self._frame(index)
            except (DatasetError, InputError, OSError) as error:
                if not self._keep_going:
                    raise
                self.faults.append(str(error))
                continue
            yield frame

    def _frame(self, index: int) -> DriveFrame:
        stamp_ns = stamp_of_frame(index, self.fps)
        if self._pairs is None:
            return DriveFrame(stamp_ns, read_rgb(self._files[index]))
        sample = self._pairs.load(index)
        return DriveFrame(stamp_ns, sample.image, sample.labels)


@dataclass(frozen=True, slots=True)
class MadeBag:
    """What was written.

    Attributes:
        images: image messages.
        truths: label messages.
        left_out: names in the folder that are no images.
    """

    images: int
    truths: int
    left_out: tuple[str, ...]


class SceneDrive:
    """A procedural drive: made on the spot, the same for the same seed, size and frame rate."""

    def __init__(self, seed: int, size: Size, fps: float, frames: int) -> None:
        from seg_perception.scenes import Drive

        stamp_of_frame(0, fps)
        self.fps = fps
        self._drive = Drive(seed, size, fps)
        self._frames = frames

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[DriveFrame]:
        for index in range(self._frames):
            frame, camera = self._drive.frame(index), self._drive.camera(index)
            # the scenes' small pitch is a shift of the picture; pixels are counted from their corners there
            center = camera.center_x - 0.5, camera.horizon + camera.focal * camera.pitch - 0.5
            exact = ExactCamera(camera.focal, center)
            yield DriveFrame(stamp_of_frame(index, self.fps), frame.image, frame.labels, camera=exact)

    @property
    def camera_height(self) -> float:
        """Meters of the lens over the ground, the same for all frames."""
        return self._drive.camera(0).h


def make_bag(
    images: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    mapping: str | Path | None = None,
    fps: float = 15.0,
    overwrite: bool = False,
    progress: bool = False,
) -> MadeBag:
    """Make a bag of a folder of images: /image, and of label files /truth.

    Args:
        images: folder of images, in the order of their names.
        out: bag to write: x.mcap, x.db3, or a folder's name.
        labels: folder of their truth, 8-bit PNGs of the same names.
        mapping: from the PNGs' values to class ids: a shipped name or a YAML file.
        fps: frames a second.
        overwrite: replace the bag.
        progress: show a bar.

    Raises:
        FileExistsError: the bag exists and `overwrite` is false.
        DatasetError, InputError: a folder or a file cannot be read.
        SettingsError: labels without a mapping, or a bad fps.
    """
    meaning = load_label_mapping(mapping) if mapping is not None else None
    drive = FolderDrive(Path(images), Path(labels) if labels is not None else None, meaning, fps)
    bar = tqdm(write_drive(drive, Path(out), overwrite), total=len(drive), unit="frame", disable=not progress)
    truths = [frame.truth is not None for frame in bar]
    return MadeBag(len(truths), sum(truths), drive.left_out)


def write_drive(drive: DriveSource, out: Path, overwrite: bool = False) -> Iterator[DriveFrame]:
    """Write a drive's frames to a bag, yielding each after it was written (for a progress bar).

    The topics are /image (rgb8) and, where there is truth, /truth (mono8 class ids), where the camera is known
    /camera_info before its image. All carry the same stamp; the record time is the stamp. The bag exists once the
    iterator is exhausted.

    Raises:
        FileExistsError: the bag exists and `overwrite` is false.
        DatasetError, InputError: a file cannot be read.
    """
    with BagWriter(out, overwrite=overwrite) as bag:
        bag.add_topic(IMAGE_TOPIC, messages.IMAGE)
        truth_added = info_added = False
        for frame in drive:
            header = messages.header(frame.stamp_ns, frame.frame_id)
            if frame.camera is not None:
                if not info_added:
                    bag.add_topic(INFO_TOPIC, messages.CAMERA_INFO)
                    info_added = True
                height, width = frame.image.shape[:2]
                info = messages.camera_info(width, height, frame.camera.focal, header, frame.camera.center)
                bag.write(INFO_TOPIC, frame.stamp_ns, info)
            bag.write(IMAGE_TOPIC, frame.stamp_ns, messages.image(frame.image, header))
            if frame.truth is not None:
                if not truth_added:
                    bag.add_topic(TRUTH_TOPIC, messages.IMAGE)
                    truth_added = True
                bag.write(TRUTH_TOPIC, frame.stamp_ns, messages.image(frame.truth, header))
            yield frame
