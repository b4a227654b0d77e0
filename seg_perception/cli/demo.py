"""Drive through the real node over real DDS, and show what it published.

Without --bag or --images the drive is a procedural one, with exact truth, at its own pace: frames
that the engine cannot keep up with are superseded, as on the robot, and counted. With --bag or
--images the demo waits for each answer before it sends the next frame (--lockstep), so that every
frame is scored and the mean IoU equals that of `seg-perception evaluate` on the same images.

Written under --out: demo.mcap (images, truth, labels, mask, overlay), overlay.mp4,
contact_sheet.png, summary.json, and the node's log; of the procedural drive, whose camera is exactly known,
birdseye.png and a view from above in sheet and video, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seg_perception.cli._options import MODEL_HELP, add_engine_argument
from seg_perception.cli._process import stay_by_ourselves, use_profile_for_large_images
from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.resources import DEFAULT_MODEL, model_file

if TYPE_CHECKING:
    from seg_perception.ros.demo.session import SessionReport

RECORDED = "demo.mcap"

HELP = "drive through the real node over DDS; writes bag, video, contact sheet and scores"
EXAMPLES = ("", "--bag drive.mcap --out out", "--images photos --labels truth --mapping driving")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bag", type=Path, help="drive a bag's images instead")
    source.add_argument("--images", type=Path, metavar="DIR", help="drive a folder's images instead, by name")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="with --images: truth, 8-bit PNGs of the same names")
    parser.add_argument("--mapping", help="with --labels: from their values to our ids: camvid, ..., or a YAML file")
    parser.add_argument("--image-topic", help="with --bag (default: /image or the only image topic)")
    parser.add_argument("--truth-topic", help="with --bag: mono8 class ids (default: /truth if there)")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, help="at most so many (default: 90 of the procedural drive, else all)")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="procedural drive (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=17, help="of the procedural drive (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=15.0, help="of procedural drive and folder (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1.0, help="at the drive's own pace: 2 is twice as fast")
    parser.add_argument(
        "--lockstep", action=argparse.BooleanOptionalAction, default=None,
        help="wait for each answer before the next frame (default: with --bag and --images)",
    )  # fmt: skip
    parser.add_argument("--model", type=model_file, default=DEFAULT_MODEL, metavar="FILE", help=MODEL_HELP)
    add_engine_argument(parser)
    parser.add_argument(
        "--node-timeout", type=float, default=300.0, metavar="SECONDS",
        help="how long the node may take to start, engine build included (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--gif", action="store_true", help="write overlay.gif instead of overlay.mp4")


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


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.cli._process import stop_on_signals

    _check(arguments)
    stay_by_ourselves()
    use_profile_for_large_images()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with stop_on_signals() as stop, tempfile.TemporaryDirectory(prefix=".demo-", dir=arguments.out) as work:
        drive = _drive_bag(arguments) if arguments.bag else _made_drive(arguments, Path(work), stop)
        return 130 if drive is None else _run(arguments, drive, stop)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what would be ignored, before anything starts."""
    given = {name: getattr(arguments, name) is not None for name in ("labels", "mapping", "image_topic", "truth_topic")}
    if given["labels"] != given["mapping"]:
        raise InputError("--labels and --mapping belong together: the PNGs, and what their values mean")
    if given["labels"] and not arguments.images:
        raise InputError("--labels goes with --images; a bag's truth is a topic of it (--truth-topic)")
    if (given["image_topic"] or given["truth_topic"]) and not arguments.bag:
        raise InputError("--image-topic and --truth-topic go with --bag")
    if arguments.frames is not None and arguments.frames < 1:
        raise InputError(f"--frames {arguments.frames} is not accepted: at least 1")
    if not 0 < arguments.rate < float("inf"):
        raise InputError(f"--rate {arguments.rate} is not accepted: it must be greater than 0")
    out = arguments.out.resolve()
    for source in filter(None, (arguments.bag, arguments.images, arguments.labels)):
        if source.resolve() in (out, out / RECORDED) or _same_file(source, arguments.out / RECORDED):
            raise InputError(f"the demo would write its results over {source}: give another folder with --out")


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _drive_bag(arguments: argparse.Namespace) -> _Drive:
    from seg_perception.bags.images import IMAGE_TYPES
    from seg_perception.bags.messages import COMPRESSED_IMAGE
    from seg_perception.bags.reader import BagReader

    with BagReader(arguments.bag) as bag:
        image = arguments.image_topic or bag.topic_of_type(IMAGE_TYPES, "image topic (--image-topic)", "/image").name
        names = {topic.name for topic in bag.topics}
        truth = arguments.truth_topic or ("/truth" if "/truth" in names else None)
        for name in (image, truth):
            if name is not None:
                bag.topic(name)
        compressed = bag.topic(image).type == COMPRESSED_IMAGE
    return _Drive(arguments.bag, f"bag {arguments.bag}", image, truth, compressed)


def _made_drive(arguments: argparse.Namespace, work: Path, stop: threading.Event) -> _Drive | None:
    """Render or gather the drive into a bag, so that nothing but playing happens while it is driven."""
    from tqdm import tqdm

    from seg_perception.bags.making import FolderDrive, SceneDrive, write_drive
    from seg_perception.core.label_mapping import load_label_mapping
    from seg_perception.core.types import Size

    drive: FolderDrive | SceneDrive
    if arguments.images:
        mapping = load_label_mapping(arguments.mapping) if arguments.mapping else None
        drive = FolderDrive(
            arguments.images, arguments.labels, mapping, arguments.fps, arguments.frames, keep_going=True
        )
        words, truth = f"images of {arguments.images}", arguments.labels is not None
    else:
        drive = SceneDrive(arguments.seed, Size.parse(arguments.size), arguments.fps, arguments.frames or 90)
        words, truth = f"procedural drive, seed {arguments.seed}", True
    bag = work / "drive.mcap"
    for _ in tqdm(write_drive(drive, bag), total=len(drive), unit="frame", desc="prepare the drive"):
        if stop.is_set():
            return None
    faults, left_out = (drive.faults, drive.left_out) if isinstance(drive, FolderDrive) else ([], ())
    if left_out:
        print(f"left out, no images: {', '.join(left_out)}", file=sys.stderr)
    if len(faults) == len(drive):
        raise InputError(f"none of the {len(faults)} images can be read:\n  " + "\n  ".join(faults))
    description = f"{words}, {arguments.fps:g} Hz"
    height = drive.camera_height if isinstance(drive, SceneDrive) else None
    return _Drive(bag, description, "/image", "/truth" if truth else None, faults=tuple(faults), camera_height=height)


def _run(arguments: argparse.Namespace, drive: _Drive, stop: threading.Event) -> int:
    from tqdm import tqdm

    from seg_perception.bags.reader import BagReader
    from seg_perception.ros.demo.node_process import NodeProcess
    from seg_perception.ros.demo.session import SessionSettings
    from seg_perception.ros.demo.session import drive as drive_session

    lockstep = bool(arguments.bag or arguments.images) if arguments.lockstep is None else arguments.lockstep
    settings = SessionSettings(
        drive.image_topic,
        drive.truth_topic,
        lockstep,
        arguments.rate,
        arguments.frames,
        arguments.node_timeout,
        info_topic=None if drive.camera_height is None else "/camera_info",
    )
    recorded = arguments.out / RECORDED
    node_arguments = ["--ros-args", "-p", f"model:={arguments.model.resolve()}", "-p", f"engine:={arguments.engine}"]
    node_arguments += ["-p", "input:=compressed"] if drive.compressed else []
    if drive.camera_height is not None:  # the rendered town has an exact camera: the grid is shown, too
        node_arguments += ["-p", "ground.source:=fixed", "-p", f"ground.height:={drive.camera_height}"]
    with BagReader(drive.bag) as bag, NodeProcess(arguments.out / "node.log", node_arguments) as node:
        frames = bag.topic(drive.image_topic).count
        with tqdm(total=min(frames, arguments.frames or frames), unit="frame", desc="drive") as bar:
            session = drive_session(
                bag,
                recorded,
                node,
                settings,
                stop,
                on_waiting=lambda text: bar.write(f"waiting for {text}", file=sys.stderr),
                on_frame=lambda answered: bar.update(answered - bar.n),
            )
    if session.interrupted:
        print(f"interrupted; {recorded} has what was driven so far", file=sys.stderr)
        return 130
    if not session.answered:
        raise EngineError(f"the node answered none of {session.published} frames; its log ends:\n{node.log_tail()}")
    pace = "lockstep: each frame waits for the answer before" if lockstep else f"real time x {arguments.rate:g}"
    return _show(arguments, drive, pace, recorded, session)


def _show(arguments: argparse.Namespace, drive: _Drive, pace: str, recorded: Path, session: SessionReport) -> int:
    """Write the pictures and the summary, print it; 0 if everything is as it should be."""
    from seg_perception.bags.images import rgb_of
    from seg_perception.bags.reader import BagReader
    from seg_perception.core.files import write_atomically
    from seg_perception.core.types import Size
    from seg_perception.engines.graph.model_file import read_card
    from seg_perception.ros.demo import results
    from seg_perception.ros.demo.from_above import from_above

    card = read_card(arguments.model)
    video = arguments.out / ("overlay.gif" if arguments.gif else "overlay.mp4")
    sheet, summary_file = arguments.out / "contact_sheet.png", arguments.out / "summary.json"
    birds_eye = arguments.out / "birdseye.png"
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
    summary = results.Summary(
        drive=drive.description,
        pace=pace,
        size=str(size),
        model=card.id,
        session=session,
        scored=scored,
        label_set=card.label_set,
        files=tuple(files),
    )
    write_atomically(summary_file, summary.to_json().encode())
    print(summary.text())
    if fitted:
        print(f"{video}: {fitted} frames of another size than the first were fitted into it", file=sys.stderr)
    if drive.faults:
        print(f"{len(drive.faults)} images could not be driven:", *drive.faults, sep="\n  ", file=sys.stderr)
    missing = [path for path in summary.files if not path.is_file() or not path.stat().st_size]
    if missing:
        print(f"not written: {', '.join(map(str, missing))}", file=sys.stderr)
    if session.unknown_stamps:
        print(f"{session.unknown_stamps} messages came with a stamp that no image had", file=sys.stderr)
    if session.account is not None and not session.account.adds_up:
        print("the node's account does not add up", file=sys.stderr)
    sound = session.account is None or session.account.adds_up
    return 1 if missing or drive.faults or session.unknown_stamps or not sound else 0
