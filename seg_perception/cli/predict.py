"""Segment images, folders of images, and videos.

An image NAME gives labels/NAME.png (class ids), drivable/NAME.png (0 or 255) and overlay/NAME.png
under the output folder; a folder's inner folders are kept. A video NAME gives NAME_overlay.mp4,
and with --frames the three pictures of every frame under NAME/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from seg_perception.cli._opening import add_model_arguments, add_params_file_argument, open_segmenter
from seg_perception.core.errors import InputError

if TYPE_CHECKING:
    from tqdm import tqdm

    from seg_perception.core.types import MaskImage, RgbImage, Segmentation
    from seg_perception.node_parameters import PictureSettings
    from seg_perception.segmenter import Segmenter

HELP = "segment images, folders and videos"

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="image, folder or video")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--opacity", type=float, help="of the overlay, 0 to 1 (default: as in --params-file)")
    add_params_file_argument(parser)
    parser.add_argument("--gif", action="store_true", help="write a video's overlay as GIF instead of MP4")
    parser.add_argument("--frames", action="store_true", help="write labels, mask and overlay of every video frame")
    add_model_arguments(parser)


@dataclass(frozen=True, slots=True)
class _Job:
    """One file to segment, and its name in the output folder (without a suffix)."""

    source: Path
    name: Path

    @property
    def is_video(self) -> bool:
        return self.source.suffix.lower() in _VIDEO_SUFFIXES


@dataclass(slots=True)
class _Done:
    images: int = 0
    videos: int = 0
    video_frames: int = 0
    faults: list[str] = field(default_factory=list)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seg_perception.node_parameters import picture_settings

    done = _Done()
    jobs = list(_jobs(arguments.inputs, done))
    taken: dict[tuple[Path, bool], Path] = {}
    for job in jobs:
        if (first := taken.setdefault((job.name, job.is_video), job.source)) is not job.source:
            raise InputError(f"{first} and {job.source} would both be written as {job.name}: predict them apart")
    pictures = picture_settings(arguments.params_file)
    if arguments.opacity is not None:
        if not 0.0 <= arguments.opacity <= 1.0:
            raise InputError(f"--opacity {arguments.opacity} is not accepted: 0 (image only) to 1 (colors only) is")
        pictures = replace(pictures, opacity=arguments.opacity)
    arguments.out.mkdir(parents=True, exist_ok=True)  # what cannot be made is better known before the work
    with open_segmenter(arguments) as opened, tqdm(total=len(jobs), unit="file", desc="predict") as bar:
        bar.write(opened.description, file=sys.stderr)
        predictor = _Predictor(opened.segmenter, arguments.out, pictures)
        for job in jobs:
            try:
                if job.is_video:
                    frames, announced = predictor.video(job, arguments.gif, arguments.frames, bar)
                    done.video_frames += frames
                    done.videos += 1
                    if frames < 0.98 * announced - 1:  # containers may announce a frame or two too many
                        done.faults.append(f"{job.source}: only {frames} of {announced} frames could be decoded")
                else:
                    predictor.image(job)
                    done.images += 1
            except (InputError, OSError) as error:
                done.faults.append(str(error))
            bar.update()
    videos = f", {done.videos} videos with {done.video_frames} frames" if done.videos else ""
    print(f"{arguments.out}: {done.images} images{videos}")
    if done.faults:
        print(f"{len(done.faults)} inputs could not be used:", *done.faults, sep="\n  ", file=sys.stderr)
    return 1 if done.faults else 0


def _jobs(inputs: list[Path], done: _Done) -> Iterator[_Job]:
    """The files to segment; what cannot be one is noted as a fault."""
    suffixes = (*_IMAGE_SUFFIXES, *_VIDEO_SUFFIXES)
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not inside:
                done.faults.append(f"{path}: no images or videos in this folder ({', '.join(suffixes)})")
            yield from (_Job(p, p.relative_to(path).with_suffix("")) for p in inside)
        elif not path.is_file():
            done.faults.append(f"{path}: no such file or folder")
        elif path.suffix.lower() not in suffixes:
            done.faults.append(f"{path}: not an image or a video; accepted: {', '.join(suffixes)}")
        else:
            yield _Job(path, Path(path.stem))


class _Predictor:
    def __init__(self, segmenter: Segmenter, out: Path, pictures: PictureSettings) -> None:
        from seg_perception.core.drivable import DrivableMasker

        self._segmenter = segmenter
        self._label_set = segmenter.card.label_set
        self._out = out
        self._pictures = pictures
        # Pictures of a folder are no film: what waits for several frames in a row would never come.
        self._masker = DrivableMasker(replace(pictures.drivable, appear_frames=1), self._label_set)

    def image(self, job: _Job) -> None:
        from seg_perception.core.image_file import read_rgb

        image = read_rgb(job.source)
        segmentation = self._segmenter.segment(image)
        mask, picture = self._masker.mask(segmentation), self._overlay(image, segmentation)
        self._write(self._out, job.name, segmentation, mask, picture)

    def video(self, job: _Job, gif: bool, every_frame: bool, bar: tqdm[NoReturn]) -> tuple[int, int]:
        """Write the video's overlay; returns how many frames it has, and how many the file announced."""
        from seg_perception.core.drivable import DrivableMasker
        from seg_perception.video import VideoReader, VideoWriter

        out = self._out / job.name.with_name(f"{job.name.name}_overlay{'.gif' if gif else '.mp4'}")
        out.parent.mkdir(parents=True, exist_ok=True)
        masker = DrivableMasker(self._pictures.drivable, self._label_set)
        with VideoReader(job.source) as reader, VideoWriter(out, reader.fps) as writer:
            for index, image in enumerate(reader):
                segmentation = self._segmenter.segment(image)
                picture = self._overlay(image, segmentation)
                writer.add(picture)
                if every_frame:
                    mask = masker.mask(segmentation, round(index * 1e9 / reader.fps))
                    self._write(self._out / job.name, Path(f"{index:06d}"), segmentation, mask, picture)
                place = f"{job.source.name}: frame {index + 1}/{reader.announced_frames or '?'}"
                bar.set_postfix_str(place, refresh=sys.stderr.isatty())
            return writer.frames, reader.announced_frames

    def _overlay(self, image: RgbImage, segmentation: Segmentation) -> RgbImage:
        from seg_perception.core.visual import overlay

        return overlay(image, segmentation.labels, self._label_set, self._pictures.opacity)

    @staticmethod
    def _write(out: Path, name: Path, segmentation: Segmentation, mask: MaskImage, picture: RgbImage) -> None:
        import cv2

        from seg_perception.core.encoded import encode_png_bytes
        from seg_perception.core.files import write_atomically

        pictures = {
            "labels": encode_png_bytes(segmentation.labels),
            "drivable": encode_png_bytes(mask),
            "overlay": cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1],
        }
        for kind, encoded in pictures.items():
            path = out / kind / name.parent / f"{name.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, encoded.tobytes())
