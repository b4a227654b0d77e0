"""Show in the browser what the model sees: a running node, or a video, folder, bag, camera or URL.

Without SOURCE the page shows the running node. The page is served on this machine only, unless --address says
otherwise; then every request needs the token that is printed. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse

from seg_perception.cli._options import add_model_arguments, load_options

HELP = "show a node, bag, video, folder, camera or URL in the browser"
EXAMPLES = (
    "                                  (the running node)",
    "drive.mcap --topic /front/image",
    "clip.mp4 --port 8080",
    "0                                 (the first camera)",
    "--node /car/segmentation_node --control",
    "photos --address 0.0.0.0          (prints an address with a token)",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.cli._process import stop_on_signals
    from seg_perception.commands.looking import serve_page
    from seg_perception.core.errors import InputError
    from seg_perception.view.server import ViewSettings

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
