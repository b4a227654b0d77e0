"""What a model sees, and what a node does: a page in the browser, frames worth labeling, a node to speak to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from seg_perception.commands.judging import opened_model
from seg_perception.core.files import make_folder, model_file
from seg_perception.core.types import Size
from seg_perception.model import Model, load

if TYPE_CHECKING:
    from seg_perception.bags.selecting import Selection
    from seg_perception.ros.remote import RemoteNode
    from seg_perception.view.board import ViewSettings


def select_frames(
    bag: str | Path,
    out: str | Path,
    count: int = 200,
    images: str | None = None,
    model: str | Path | None = None,
    second: str | Path | None = None,
    engine: str = "auto",
    size: str | Size | tuple[int, int] | None = None,
    threads: int = 0,
    on_open: Callable[[str], object] = lambda _: None,
    on_frame: Callable[[int], object] = lambda _: None,
    on_remark: Callable[[str], object] = lambda _: None,
) -> Selection:
    """Choose the frames of a bag that are worth labeling: uncertain, contradictory, and unlike each other.

    Args:
        bag: with an image topic.
        out: a new folder for the images, picks.csv with reasons, and a contact sheet.
        count: how many; fewer come where there are no more that differ.
        images: the image topic; None: /image, or the only one.
        model: the network that shall get better, as `load`.
        second: another one, to see where the two disagree.
        engine: as `load`.
        size: as `load`.
        threads: as `load`.
        on_open: is told in what novelty is measured: in the network's features, or in grids of its labels, and why.
        on_frame: called after each image.
        on_remark: is told what was guessed or left out of the bag.

    Raises:
        FileExistsError: the folder is there and not empty.
        FileNotFoundError, ModelError, EngineError: see `load`.
        InputError: no such topic, no image that can be decoded, a count below 1, a damaged bag, or other classes.
    """
    from seg_perception.bags.reader import BagReader
    from seg_perception.bags.selecting import open_segmenter, write_selection
    from seg_perception.bags.selecting import select_frames as choose

    out, wanted = Path(out), None if size is None else Size.parse(size)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already: move or remove it first")
    with BagReader(Path(bag)) as reader, ExitStack() as stack:
        make_folder(out)
        for note in reader.notes:
            on_remark(note)
        segmenter, features, why = open_segmenter(model_file(model), engine, threads, wanted)
        stack.enter_context(segmenter)
        on_open(f"in the features of {segmenter.card.id}" if features else f"in grids of labels, because {why}")
        other = stack.enter_context(load(second, engine, size, threads)).segmenter if second is not None else None
        chosen = choose(reader, segmenter, count, images, other, on_frame, features)
        write_selection(reader, chosen, segmenter, out)
    return chosen


def serve_page(
    source: str | Path | int | None = None,
    node: str = "/segmentation_node",
    model: str | Path | Model | None = None,
    engine: str = "auto",
    size: str | Size | tuple[int, int] | None = None,
    threads: int = 0,
    topic: str | None = None,
    loop: bool = True,
    settings: ViewSettings | None = None,
    stop: threading.Event | None = None,
    on_url: Callable[[str], object] = print,
) -> int:
    """Serve a web page of what the model sees, until `stop` is set or the source ends.

    Args:
        source: a video, folder, bag, camera's index or URL, as `Model.stream`; None: the running node.
        node: its name.
        model: of a source, not of a node: a model file, or a loaded `Model`; None: the shipped one.
        engine: as `load`.
        size: as `load`.
        threads: as `load`.
        topic: the image topic of a bag.
        loop: play the source again and again.
        settings: port, address, rate, and whether pages may change things.
        stop: set it to end.
        on_url: is told the page's address.

    Returns:
        How many frames of the source were shown; 0 of a node.

    Raises:
        FileNotFoundError, ModelError, EngineError, InputError: see `load` and `Model.stream`.
        SegPerceptionError: the port cannot be had.
    """
    from seg_perception.view.board import ViewSettings
    from seg_perception.view.playback import Playback
    from seg_perception.view.server import ViewServer

    settings, stop = settings or ViewSettings(), stop or threading.Event()
    if source is None:
        from seg_perception.ros.viewer import view_node

        view_node(node, settings, stop, on_url)
        return 0
    with opened_model(model, engine, size, threads) as opened:
        playback = Playback(opened, source, topic, loop=loop)
        with ViewServer(playback.board, settings) as server:
            on_url(server.url)
            return playback.run(stop)


def remote_node(name: str = "/segmentation_node", patience_s: float = 5.0) -> AbstractContextManager[RemoteNode]:
    """A running node to speak to, in a `with` block: its parameters, lifecycle state, messages and diagnostics.

    Args:
        name: of the node.
        patience_s: how long to look for it, and for each answer.
    """
    from seg_perception.ros.remote import remote_node as opened

    return opened(name, patience_s)
