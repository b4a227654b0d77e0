"""`bag`: everything that is done with rosbag2 bags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path

from seg_perception.cli._command import (
    Command,
    add_model_arguments,
    add_params_file_argument,
    load_options,
    stop_on_signals,
)
from seg_perception.core.errors import printable
from seg_perception.node_outputs import image_outputs


def _add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_play(actions.add_parser("play", help="publish a bag with its recorded timing"))
    _add_record(actions.add_parser("record", help="record topics into an MCAP bag until Ctrl-C"))
    info = actions.add_parser("info", help="what a bag holds")
    info.add_argument("bag", type=Path)
    info.set_defaults(bag_action=_info)
    _add_process(actions.add_parser("process", help="segment every frame of a bag, offline; run again to resume"))
    _add_select(actions.add_parser("select", help="choose the frames that are worth labeling"))
    _add_evaluate(actions.add_parser("evaluate", help="score a label topic against a truth topic"))
    _add_make(actions.add_parser("make", help="make a bag from a folder of images"))
    _add_recover(actions.add_parser("recover", help="save what is readable of a bag that was cut off or damaged"))


def _bag(arguments: argparse.Namespace) -> int:
    """Play, record, inspect, segment, select from, score and make rosbag2 bags (MCAP and SQLite).

    Everything works without a ROS installation; play and record need the rclpy wheels or a sourced ROS 2.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and topics may be no text
    return int(arguments.bag_action(arguments))


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)


def _add_play(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="bag folder, .mcap or .db3 file")
    parser.add_argument("--rate", type=float, default=1.0, help="2 plays twice as fast (default: %(default)s)")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C")
    parser.add_argument("--topics", nargs="+", default=[], help="only these (default: all)")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="TOPIC",
        help="not these; NAME/ stands for every topic below it, such as /segmentation_node/",
    )  # fmt: skip
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="skip the bag's first seconds")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="wait before the first message")
    parser.add_argument(
        "--wait-for-subscribers", nargs="+", default=[], metavar="TOPIC",
        help="begin when each of these has a subscriber, fail if one gets none (default: begin when any topic has one)",
    )  # fmt: skip
    parser.add_argument(
        "--wait", type=float, default=10.0, metavar="SECONDS",
        help="how long to wait for subscribers; 0 does not (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--clock", type=float, nargs="?", const=40.0, default=0.0, metavar="HZ",
        help="publish the bag's time on /clock, for use_sim_time (default when given: %(const)s Hz)",
    )  # fmt: skip
    parser.set_defaults(bag_action=_play)


def _play(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seg_perception.bags.reader import BagReader, topic_text
    from seg_perception.ros.bag_tools import play_bag

    with stop_on_signals() as stop, tqdm(unit="msg", desc="play") as bar:

        def show(bag: BagReader) -> None:
            _say_notes(bag.notes)
            names = arguments.topics or [topic.name for topic in bag.topics]
            whole = not (arguments.loop or arguments.start)
            bar.total = sum(bag.topic(name).count for name in names) if whole else None

        report = play_bag(
            arguments.bag,
            stop,
            on_message=lambda _: bar.update(),
            on_waiting=lambda text: bar.write(f"waiting for {text}", file=sys.stderr),
            on_open=show,
            rate=arguments.rate,
            loop=arguments.loop,
            topics=tuple(arguments.topics),
            leave_out=tuple(arguments.leave_out),
            start_s=arguments.start,
            delay_s=arguments.delay,
            wait_for=tuple(arguments.wait_for_subscribers),
            wait_timeout_s=arguments.wait,
            clock_hz=arguments.clock,
        )
    for name, reason in report.skipped.items():
        print(f"not played: {topic_text(name)}: {printable(reason)}", file=sys.stderr)
    for name, count in report.published.items():
        print(f"{topic_text(name)}: {count} published{' (nobody subscribed)' if name in report.unheard else ''}")
    if report.latest_s > 0.1:
        print(
            f"up to {report.latest_s:.2f} s late: reading or publishing is slower than the recording", file=sys.stderr
        )
    if report.unacknowledged and not report.interrupted:
        print(f"not confirmed by all subscribers: {', '.join(report.unacknowledged)}", file=sys.stderr)
        return 1
    if not report.published and not report.interrupted:
        print(f"{arguments.bag}: no message was played of {report.messages}", file=sys.stderr)
        return 1 if report.messages else 0
    return 130 if report.interrupted and not arguments.loop else 0


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topics", nargs="*", help="topics to record")
    parser.add_argument("--all", action="store_true", help="record every topic except /clock and /rosout")
    parser.add_argument("--out", type=Path, required=True, help="x.mcap for one file, other names for a bag folder")
    parser.add_argument("--compress", action="store_true", help="zstd: smaller, costs CPU time while recording")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after this time (default: at Ctrl-C)")
    parser.set_defaults(bag_action=_record)


def _record(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seg_perception.core.errors import SettingsError
    from seg_perception.ros.bag_tools import record_bag

    if bool(arguments.topics) == arguments.all:
        raise SettingsError("name the topics to record, or give --all")
    with stop_on_signals() as stop, tqdm(unit="msg", desc="record (Ctrl-C ends)") as bar:
        report = record_bag(
            arguments.out,
            None if arguments.all else arguments.topics,
            arguments.duration,
            stop,
            arguments.compress,
            arguments.overwrite,
            on_message=lambda _: bar.update(),
            on_topic=lambda name: bar.write(f"recording {name}", file=sys.stderr),
        )
    for name, count in report.received.items():
        print(f"{name}: {count} recorded, {report.lost[name]} lost")
    for name, reason in report.skipped.items():
        print(f"not recorded: {name}: {reason}", file=sys.stderr)
    _say_notes(report.notes)
    if report.missing:
        print(f"nobody published {', '.join(report.missing)}", file=sys.stderr)
    print(f"wrote {arguments.out}")
    return 1 if report.missing or any(report.lost.values()) else 0


def _info(arguments: argparse.Namespace) -> int:
    from seg_perception.bags.reader import bag_info

    info = bag_info(arguments.bag)
    print(info.text())
    _say_notes(info.notes)
    return 0


def _add_process(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, help="bag to read")
    parser.add_argument("output", type=Path, help="bag to write: x.mcap, x.db3, or a folder's name")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="TOPIC", help="image topics (default: /image or the only one)"
    )
    parser.add_argument(
        "--prefix", default="/segmentation_node", help="outputs are PREFIX/labels and so on (default: %(default)s)"
    )
    images = image_outputs()
    usual = [row.name for row in images.values() if row.processed]
    parser.add_argument(
        "--outputs", nargs="+", default=usual, choices=images, metavar="NAME",
        help=f"which to write, of {', '.join(images)} (default: {' '.join(usual)})",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument(
        "--rerun", type=Path, metavar="FILE.rrd", help="also write it for the Rerun viewer (needs the extra rerun)"
    )
    add_params_file_argument(parser)
    add_model_arguments(parser)
    parser.set_defaults(bag_action=_process)


def _process(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seg_perception.bags.processing import ProcessSettings, process_bag
    from seg_perception.bags.rerun_file import check_rerun, write_rerun
    from seg_perception.engines.graph.model_file import read_card
    from seg_perception.node_parameters import picture_settings

    if arguments.rerun is not None:
        check_rerun(arguments.rerun, arguments.overwrite)
    pictures = picture_settings(arguments.params_file)
    settings = ProcessSettings(
        images=tuple(arguments.images),
        prefix=arguments.prefix.rstrip("/"),
        outputs=tuple(arguments.outputs),
        drivable=pictures.drivable,
        camera_drivable=pictures.camera_drivable,
        opacity=pictures.opacity,
        meters=pictures.meters,
    )
    with tqdm(unit="msg", desc="process") as bar:

        def on_open(description: str, total: int) -> None:
            bar.write(description, file=sys.stderr)
            bar.reset(total)

        report = process_bag(
            arguments.input,
            arguments.output,
            settings,
            model=arguments.model,
            engine=arguments.engine,
            size=arguments.input_size,
            threads=arguments.threads,
            overwrite=arguments.overwrite,
            on_open=on_open,
            on_message=lambda _: bar.update(),
        )
    _say_notes(report.notes)
    resumed = f", {report.resumed} of them by an earlier attempt" if report.resumed else ""
    print(f"{arguments.output}: {report.segmented} of {report.frames} frames segmented{resumed}")
    if report.replaced:
        print(f"replaced topics of the input: {', '.join(report.replaced)}")
    for reason, count in report.rejected.items():
        print(f"rejected {count} frames: {reason}", file=sys.stderr)
    for reason, count in report.without_meters.items():
        print(f"no grid for {count} frames: {reason}", file=sys.stderr)
    if arguments.rerun is not None:
        recorded = write_rerun(
            arguments.output, arguments.rerun, read_card(arguments.model).label_set, arguments.overwrite
        )
        written = {name: count for name, count in recorded.written.items() if count}
        print(f"{arguments.rerun}: {sum(written.values())} messages of {len(written)} topics")
        if left_out := recorded.written.keys() - written.keys():
            print(f"not in {arguments.rerun}: {', '.join(sorted(left_out))}", file=sys.stderr)
        for reason, count in recorded.rejected.items():
            print(f"{arguments.rerun}: left out {count} messages: {reason}", file=sys.stderr)
        report.rejected += recorded.rejected
    return 1 if report.rejected or report.without_meters else 0


def _add_select(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="images, picks.csv and contact_sheet.png"
    )
    parser.add_argument("--count", type=int, default=200, help="how many frames (default: %(default)s)")
    help_ = "image topic (default: /image or the only one)"
    parser.add_argument("--topic", "--images", dest="images", metavar="TOPIC", help=help_)
    parser.add_argument(
        "--second", type=Path, metavar="MODEL", help="another ONNX model, to see where the two disagree"
    )
    add_model_arguments(parser)
    parser.set_defaults(bag_action=_select)


def _select(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seg_perception.commands.looking import select_frames

    measured: list[str] = []
    with tqdm(unit="frame", desc="select") as bar:
        chosen = select_frames(
            arguments.bag,
            arguments.out,
            arguments.count,
            arguments.images,
            **load_options(arguments),
            second=arguments.second,
            on_frame=lambda _: bar.update(),
            on_open=measured.append,
            on_remark=lambda note: _say_notes([note]),
        )
    alike = f"; {chosen.duplicates} look like a chosen one" if chosen.duplicates else ""
    print(f"{arguments.out}: {len(chosen.picks)} of {chosen.frames} frames on {chosen.topic}{alike}")
    print(f"novelty was measured {measured[0]}")
    for reason, count in chosen.rejected.items():
        print(f"rejected {count} frames: {reason}", file=sys.stderr)
    return 1 if chosen.rejected else 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path)
    parser.add_argument("--labels", required=True, metavar="TOPIC", help="mono8 class ids to score")
    parser.add_argument("--truth", required=True, metavar="TOPIC", help="mono8 class ids; 255 unlabeled")
    parser.add_argument("--label-set", default="driving", help="name or YAML file (default: %(default)s)")
    parser.set_defaults(bag_action=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from seg_perception.bags.scoring import score_bag
    from seg_perception.core.label_set import load_label_set
    from seg_perception.core.metrics import score_table

    label_set = load_label_set(arguments.label_set)
    score = score_bag(arguments.bag, arguments.labels, arguments.truth, label_set)
    _say_notes(score.notes)
    print(f"{arguments.bag}: {arguments.labels} against {arguments.truth}")
    alone = f"{score.labels_only} labels, {score.truth_only} truth"
    print(f"{score.matched} frames matched by stamp; without a partner: {alone}")
    print(score_table(score.matrix.counts, label_set))
    return 0


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="images in the order of their names")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="their truth: 8-bit PNGs of the same names")
    parser.add_argument("--mapping", help="from the PNGs' values to our ids: a name such as camvid, or a YAML file")
    parser.add_argument("--fps", type=float, default=15.0, help="frames a second (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="bag to write: x.mcap, x.db3, or a folder's name")
    parser.add_argument("--overwrite", action="store_true")
    parser.set_defaults(bag_action=_make)


def _make(arguments: argparse.Namespace) -> int:
    from seg_perception.bags.making import make_bag

    made = make_bag(
        arguments.images,
        arguments.out,
        arguments.labels,
        arguments.mapping,
        arguments.fps,
        arguments.overwrite,
        progress=True,
    )
    print(f"{arguments.out}: {made.images} images on /image, {made.truths} truth images on /truth")
    if made.left_out:
        shown = ", ".join(made.left_out[:3]) + ", ..." * (len(made.left_out) > 3)
        print(f"left out, no image: {len(made.left_out)}: {shown}", file=sys.stderr)
    return 0


def _add_recover(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("damaged", type=Path, help="a file, such as x.mcap.partial/x/x.mcap, or a folder of them")
    parser.add_argument("output", type=Path, help="bag to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.set_defaults(bag_action=_recover)


def _recover(arguments: argparse.Namespace) -> int:
    from seg_perception.bags.reader import topic_text
    from seg_perception.bags.salvage import recover

    report = recover(arguments.damaged, arguments.output, arguments.overwrite)
    for name, count in report.recovered.items():
        print(f"{topic_text(name)}: {count} recovered")
    broken = f"; {report.damaged_chunks} chunks are damaged, their messages are lost" if report.damaged_chunks else ""
    print(f"wrote {arguments.output}; {report.lost_bytes} bytes were not readable{broken}")
    for reason, count in report.left_out.items():
        print(f"left out {count}: {printable(reason)}", file=sys.stderr)
    _say_notes(report.notes)
    return 1 if report.left_out or report.damaged_chunks or report.lost_bytes else 0


COMMANDS = (
    Command(
        "bag",
        "play, record, inspect, segment, select from, score and make bags",
        (
            "info drive.mcap",
            "process drive.mcap segmented.mcap",
            "play drive.mcap --rate 2",
            "record /image /segmentation_node/labels --out drive.mcap",
        ),
        _add_bag_arguments,
        _bag,
    ),
)
