"""`predict`: the pictures of images, videos, bags and cameras, and a window to see them in."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from seg_perception.cli._command import (
    Command,
    add_export_arguments,
    add_model_arguments,
    add_params_file_argument,
    export_settings,
    load_options,
    stop_on_signals,
)
from seg_perception.core.errors import InputError

if TYPE_CHECKING:
    from seg_perception.core.types import RgbImage
    from seg_perception.model import Model
    from seg_perception.prediction import PredictReport, PredictStep


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder, video, bag, camera's index or URL")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--opacity", type=float, help="of the overlay, 0 to 1 (default: 0.5, or what --params-file says)"
    )
    add_params_file_argument(parser)
    parser.add_argument("--gif", action="store_true", help="write a video's overlay and mask as GIF instead of MP4")
    parser.add_argument("--frames", action="store_true", help="write the pictures of every video frame, too")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many frames of each video, bag or camera")
    parser.add_argument(
        "--camera", type=Path, metavar="CALIBRATION.yaml",
        help="calibration as ROS's camera_calibration writes it: also draw the ground from above, with the grid",
    )  # fmt: skip
    parser.add_argument("--height", type=float, metavar="METERS", help="of the camera over the ground, with --camera")
    parser.add_argument("--pitch", type=float, metavar="DEGREES", help="that it looks down, with --camera (default: 0)")
    parser.add_argument("--topic", help="image topic of a bag (default: /image or the only one)")
    help_ = "also write what an annotator corrects, of images: %(choices)s; with the three options below"
    add_export_arguments(parser, "--pre-label", help_, required=False)
    parser.add_argument("--show", action="store_true", help="show the overlays in a window while they are made")
    add_model_arguments(parser)


def _predict(arguments: argparse.Namespace) -> int:
    """Segment images, folders, videos, bags, cameras and URLs.

    An image NAME gives labels/NAME.png (class ids, which look black), colors/NAME.png, confidence/NAME.png,
    drivable/NAME.png (0 or 255) and overlay/NAME.png under the output folder; a folder's inner folders are kept.
    A video, bag, camera or URL NAME gives NAME_overlay.mp4 and NAME_mask.mp4, and with --frames those pictures
    of every frame under NAME/. A camera or live stream ends at Ctrl-C, or after --limit frames.
    With --camera, bird/NAME.png and NAME_bird.mp4 show the ground from above, and the grid of it.
    With --pre-label, images also give what an annotator opens and corrects: pre_labels.xml for CVAT, pre_labels.json
    for COCO, pre_labels/NAME.json for labelme. `dataset convert` brings the corrected labels back.
    """
    from tqdm import tqdm

    from seg_perception.node_parameters import picture_settings
    from seg_perception.prediction import PreLabel, birds_eye, predict

    pictures = picture_settings(arguments.params_file)
    if arguments.camera is None and (arguments.height is not None or arguments.pitch is not None):
        raise InputError("--height and --pitch say where a camera is: they go with --camera CALIBRATION.yaml")
    bird = birds_eye(arguments.camera, arguments.height, arguments.pitch, pictures) if arguments.camera else None
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        window = None
        if arguments.show:
            window = stack.enter_context(Window("seg-perception predict", stop))
        bar = stack.enter_context(tqdm(total=0, unit="file", desc="predict", disable=True))

        def start(model: Model, files: int) -> None:
            nonlocal bar
            bar = stack.enter_context(tqdm(total=files, unit="file", desc="predict"))
            bar.write(model.description, file=sys.stderr)

        def show(step: PredictStep) -> None:
            bar.n = step.file - 1
            place = f"frame {step.frame}/{step.frames or '?'}" if step.frame > 1 or step.frames != 1 else ""
            bar.set_postfix_str(f"{Path(step.result.source).name} {place}".strip(), refresh=False)
            bar.update(1 if step.frame == step.frames else 0)
            if window is not None:
                window.show(step.result.overlay(pictures.opacity))

        report = predict(
            arguments.inputs,
            arguments.out,
            **load_options(arguments),
            drivable=pictures.drivable,
            opacity=pictures.opacity if arguments.opacity is None else arguments.opacity,
            gif=arguments.gif,
            every_frame=arguments.frames,
            topic=arguments.topic,
            limit=arguments.limit,
            bird=bird,
            pre_label=PreLabel(arguments.pre_label, export_settings(arguments)) if arguments.pre_label else None,
            stop=stop,
            on_step=show,
            on_start=start,
        )
        bar.set_postfix_str("")
    return _tell(report, arguments.out)


def _tell(report: PredictReport, out: Path) -> int:
    """Print what was done; the exit status."""
    films = f", {report.films} videos with {report.film_frames} frames" if report.films else ""
    print(f"{out}: {report.images} images{films}")
    if report.pre_labels:
        print(report.pre_labels)
    for note in report.notes:
        print(note, file=sys.stderr)
    for folder in report.left_out:
        print(f"left out, neither images nor videos: {folder}", file=sys.stderr)
    if report.faults:
        print(f"{len(report.faults)} inputs could not be used:", *report.faults, sep="\n  ", file=sys.stderr)
    if report.interrupted and not report.live:
        print("interrupted: the rest was not done", file=sys.stderr)
        return 130
    return 1 if report.faults else 0


_LARGEST = (1280, 800)


class Window:
    """Shows one picture at a time; closing it, or pressing q or Escape, sets `stop`.

    Raises:
        InputError: Tk is not installed, or there is no display.
    """

    def __init__(self, title: str, stop: threading.Event) -> None:
        try:
            import tkinter as tk
        except ImportError as error:
            raise InputError("--show needs Tk: apt install python3-tk") from error
        try:
            self._root = tk.Tk()
        except tk.TclError as error:
            display = os.environ.get("DISPLAY") or "none"
            raise InputError(f"--show needs a display, and there is none to use (DISPLAY: {display})") from error
        self._tkinter = tk
        self._root.title(title)
        self._label = tk.Label(self._root)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", stop.set)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda _event: stop.set())

    def show(self, picture: RgbImage) -> None:
        """Show an RGB picture, uint8 [H, W, 3], shrunk to fit where it is very large."""
        from seg_perception.core.resizing import resize_image
        from seg_perception.core.types import Size

        height, width = picture.shape[:2]
        scale = min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
        if scale < 1:
            picture = resize_image(picture, Size(max(1, round(width * scale)), max(1, round(height * scale))))
            height, width = picture.shape[:2]
        content = f"P6 {width} {height} 255 ".encode() + picture.tobytes()
        self._image = self._tkinter.PhotoImage(data=content, format="PPM")  # Tk keeps no reference of its own
        self._label.configure(image=self._image)
        self._root.update()

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._root.destroy()


COMMANDS = (
    Command(
        "predict",
        "segment images, folders, videos, bags, cameras and URLs",
        (
            "photo.jpg --out out",
            "photos drive.mp4 --out out --opacity 0.4",
            "drive.mcap --topic /front/image --out out --frames",
            "picks/images --out out --pre-label cvat",
            "drive.mp4 --out out --camera front.yaml --height 1.5 --pitch 2",
            "0 --out out --show                          (the first camera, until Ctrl-C)",
            "rtsp://192.168.0.7/front --out out --limit 300",
        ),
        _add_predict_arguments,
        _predict,
    ),
)
