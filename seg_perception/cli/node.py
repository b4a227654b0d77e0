"""A node without a `ros2` command: `demo` drives one, `node` speaks to one, `view` shows it in the browser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seg_perception.cli._command import (
    MODEL_HELP,
    Command,
    add_engine_argument,
    add_model_arguments,
    load_options,
    stop_on_signals,
)
from seg_perception.core.errors import InputError
from seg_perception.core.files import DEFAULT_MODEL, model_file


def _add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bag", type=Path, help="drive a bag's images instead")
    source.add_argument("--images", type=Path, metavar="DIR", help="drive a folder's images instead, by name")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="with --images: truth, 8-bit PNGs of the same names")
    parser.add_argument("--mapping", help="with --labels: from their values to our ids: camvid, ..., or a YAML file")
    parser.add_argument(
        "--topic", "--image-topic", dest="image_topic", help="image topic of --bag (default: /image or the only one)"
    )
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


def _demo(arguments: argparse.Namespace) -> int:
    """Drive through the real node over real DDS, and show what it published.

    Without --bag or --images the drive is a procedural one, with exact truth, at its own pace: frames
    that the engine cannot keep up with are superseded, as on the robot, and counted. With --bag or
    --images the demo waits for each answer before it sends the next frame (--lockstep), so that every
    frame is scored and the mean IoU equals that of `seg-perception evaluate` on the same images.

    Written under --out: demo.mcap (images, truth, labels, mask, overlay), overlay.mp4,
    contact_sheet.png, summary.json, and the node's log; of the procedural drive, whose camera is exactly known,
    birdseye.png and a view from above in sheet and video, too.
    """
    from tqdm import tqdm

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


def _add_node_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    get = actions.add_parser("get", help="parameters and their values")
    get.add_argument("names", nargs="*", metavar="NAME", help="(default: all)")
    change = actions.add_parser("set", help="set parameters; refused ones are named with the node's reason")
    change.add_argument(
        "values", nargs="+", metavar="NAME=VALUE", help="the value in YAML: 0.7, true, [road, terrain]; none: unset"
    )
    state = actions.add_parser("state", help="show the lifecycle state, or change it")
    state.add_argument("transition", nargs="?", choices=("configure", "activate", "deactivate", "cleanup", "shutdown"))
    echo = actions.add_parser("echo", help="print a topic's messages; long arrays are cut")
    echo.add_argument("topic")
    echo.add_argument("--count", type=int, metavar="N", help="end after so many (default: when none comes any more)")
    report = actions.add_parser("diagnostics", help="the node's next report")
    for action in (get, change, state, echo, report):
        action.add_argument("--node", default="/segmentation_node", metavar="NAME", help="(default: %(default)s)")
        action.add_argument(
            "--wait", type=float, default=5.0, metavar="SECONDS",
            help="how long to look for the node, and for a message (default: %(default)s)",
        )  # fmt: skip


def _node(arguments: argparse.Namespace) -> int:
    """Speak to a running segmentation_node where there is no `ros2` command: parameters, state, topics, diagnostics.

    Another node or namespace is named with --node. ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE must be
    those of the node.
    """
    from seg_perception.ros.remote import remote_node

    with remote_node(arguments.node, arguments.wait) as node:
        return {"get": _get, "set": _set, "state": _state, "echo": _echo, "diagnostics": _diagnostics}[
            arguments.action
        ](node, arguments)


def _get(node: Any, arguments: argparse.Namespace) -> int:
    import yaml

    for name, value in node.parameters(arguments.names).items():
        print(f"{name}: {yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]}")
    return 0


def _set(node: Any, arguments: argparse.Namespace) -> int:
    from seg_perception.node_parameters import parameter_value

    values: dict[str, Any] = {}
    for text in arguments.values:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"{text!r} is not NAME=VALUE")
        if name in values:
            raise InputError(f"{name} is given twice")
        values[name] = parameter_value(value)
    refused = node.set_parameters(values)
    for name, reason in refused.items():
        print(f"{name} was not set: {reason}", file=sys.stderr)
    return 1 if refused else 0


def _state(node: Any, arguments: argparse.Namespace) -> int:
    print(node.state() if arguments.transition is None else node.change_state(arguments.transition))
    return 0


def _echo(node: Any, arguments: argparse.Namespace) -> int:
    import yaml

    from seg_perception.ros.remote import plain

    if arguments.count is not None and arguments.count < 1:
        raise InputError(f"--count {arguments.count} is not accepted: 1 or more is")
    shown = 0
    for message in node.messages(arguments.topic):
        print(yaml.safe_dump(plain(message), sort_keys=False, width=120), end="---\n", flush=True)
        shown += 1
        if shown == arguments.count:
            break
    if arguments.count is not None and shown < arguments.count:
        print(f"{shown} of {arguments.count} messages came; none for {arguments.wait:g} s", file=sys.stderr)
        return 1
    return 0


def _diagnostics(node: Any, arguments: argparse.Namespace) -> int:  # noqa: ARG001  one signature for all
    worst = 0
    for status in node.diagnostics():
        level = status.level[0] if isinstance(status.level, bytes) else status.level
        worst = max(worst, level)
        print(f"{('OK', 'WARN', 'ERROR', 'STALE')[level]} {status.name}: {status.message}")
        for pair in status.values:
            print(f"    {pair.key}: {pair.value}")
    return 1 if worst >= 2 else 0


def _add_view_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="folder, video, bag, camera's index or URL")
    parser.add_argument(
        "--node", metavar="NAME", help="the node to show where no SOURCE is given (default: /segmentation_node)"
    )
    parser.add_argument("--topic", help="image topic of a bag (default: /image or the only one)")
    parser.add_argument("--once", action="store_true", help="end with the source instead of playing it again")
    parser.add_argument("--port", type=int, default=8400, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--address", default="127.0.0.1", help="to listen on (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second at most (default: %(default)s)")
    parser.add_argument("--control", action="store_true", help="pages may change the node's parameters and state")
    add_model_arguments(parser)


def _view(arguments: argparse.Namespace) -> int:
    """Show in the browser what the model sees: a running node, or a video, folder, bag, camera or URL.

    Without SOURCE the page shows the running node. The page is served on this machine only, unless --address says
    otherwise; then every request needs the token that is printed. Ctrl-C ends it.
    """
    from seg_perception.commands.looking import serve_page
    from seg_perception.core.errors import InputError
    from seg_perception.view.board import ViewSettings

    if arguments.source is not None and arguments.node is not None:
        raise InputError("--node shows a running node and SOURCE a file, camera or URL: give one of them")
    with stop_on_signals() as stop:
        shown = serve_page(
            arguments.source,
            arguments.node or "/segmentation_node",
            **load_options(arguments),
            topic=arguments.topic,
            loop=not arguments.once,
            settings=ViewSettings(arguments.port, arguments.address, arguments.rate, arguments.control),
            stop=stop,
            on_url=lambda url: print(f"look at {url}", flush=True),
        )
    if arguments.source is None:
        return 0
    print(f"{shown} frames were shown")
    return 0 if shown else 1


COMMANDS = (
    Command(
        "demo",
        "drive through the real node over DDS; writes bag, video, contact sheet and scores",
        ("", "--bag drive.mcap --out out", "--images photos --labels truth --mapping driving"),
        _add_demo_arguments,
        _demo,
    ),
    Command(
        "node",
        "read and set a running node's parameters, show and change its state, echo its topics",
        (
            "get",
            "get drivable.min_confidence",
            "set drivable.min_confidence=0.7 overlay.opacity=0.3",
            "state",
            "state deactivate",
            "echo /segmentation_node/drivable_share --count 10",
            "diagnostics",
        ),
        _add_node_arguments,
        _node,
    ),
    Command(
        "view",
        "show a node, bag, video, folder, camera or URL in the browser",
        (
            "                                  (the running node)",
            "drive.mcap --topic /front/image",
            "clip.mp4 --port 8080",
            "0                                 (the first camera)",
            "--node /car/segmentation_node --control",
            "photos --address 0.0.0.0          (prints an address with a token)",
        ),
        _add_view_arguments,
        _view,
    ),
)
