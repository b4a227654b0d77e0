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
from pathlib import Path

from seg_perception.cli._options import MODEL_HELP, add_engine_argument
from seg_perception.core.resources import DEFAULT_MODEL, model_file

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


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seg_perception.cli._process import stop_on_signals
    from seg_perception.ros.demo.running import DemoSettings, demo

    settings = DemoSettings(
        bag=arguments.bag,
        images=arguments.images,
        labels=arguments.labels,
        mapping=arguments.mapping,
        image_topic=arguments.image_topic,
        truth_topic=arguments.truth_topic,
        frames=arguments.frames,
        size=arguments.size,
        seed=arguments.seed,
        fps=arguments.fps,
        rate=arguments.rate,
        lockstep=arguments.lockstep,
        model=arguments.model,
        engine=arguments.engine,
        node_timeout_s=arguments.node_timeout,
        gif=arguments.gif,
    )
    with stop_on_signals() as stop:
        summary = demo(
            arguments.out, settings, progress=True, stop=stop, on_remark=lambda text: tqdm.write(text, sys.stderr)
        )
    if summary is None:
        return 130
    print(summary.text())
    for remark in summary.remarks:
        print(remark, file=sys.stderr)
    return 0 if summary.is_sound else 1
