"""Where images come from: an image, a folder, a video, a bag, a camera or a URL, as one stream of frames."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from seg_perception.core.errors import InputError, extras_named, first_of
from seg_perception.core.files import real_path, user_path, walk
from seg_perception.core.image_file import IMAGE_SUFFIXES, read_rgb
from seg_perception.core.types import RgbImage
from seg_perception.video import VIDEO_SUFFIXES, VideoReader

_BAG_SUFFIXES = (".mcap", ".db3")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_CAMERA = re.compile(r"[0-9]{1,3}")
_SHOWN = 5

LIVE_FPS = 15.0
"""Of the videos that are written of cameras and live streams."""


class SourceKind(Enum):
    """What a source is."""

    IMAGE = "image"
    FOLDER = "folder"
    VIDEO = "video"
    BAG = "bag"
    CAMERA = "camera"
    URL = "URL"

    @property
    def is_film(self) -> bool:
        """Whether its frames follow each other in time."""
        return self not in (SourceKind.IMAGE, SourceKind.FOLDER)


@dataclass(frozen=True, slots=True)
class Source:
    """A place that frames come from.

    Attributes:
        kind: what it is.
        place: a path, a camera's index, or a URL.
    """

    kind: SourceKind
    place: Path | int | str

    @property
    def name(self) -> str:
        """A short name that can be a file's: of a file its stem, of a camera "camera0", of a URL its last part."""
        if isinstance(self.place, Path):
            return real_path(self.place).name if self.kind is SourceKind.FOLDER else self.place.stem
        if isinstance(self.place, int):
            return f"camera{self.place}"
        host, _, path = self.place.partition("://")[2].partition("?")[0].rstrip("/").rpartition("/")
        return re.sub(r"[^\w.-]+", "_", Path(path).stem if host else path) or "stream"

    def __str__(self) -> str:
        return f"camera {self.place}" if self.kind is SourceKind.CAMERA else str(self.place)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of a source.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        name: unique within the source and a relative file name without ending: an image's stem (below its
            folder), a frame's number.
        source: the file, camera, URL or bag topic that it is of, for people.
        index: its place in the source, from 0.
        stamp_ns: of a bag the header's stamp; of a video nanoseconds since its start; of a camera or live
            stream the time of arrival since 1970; None for an image.
    """

    image: RgbImage
    name: str
    source: str
    index: int
    stamp_ns: int | None = None


@dataclass(frozen=True, slots=True)
class FolderListing:
    """What a folder holds, inner folders included, by name; hidden files are not looked at.

    Attributes:
        images, videos: what can be read, by its ending.
        left_out: ending (or another reason) -> the files of that kind, which are not read.
    """

    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def left_out_text(self) -> str:
        """One line for people; empty where nothing was left out."""
        return "; ".join(
            f"{len(paths)} {reason} ({first_of((path.name for path in paths), _SHOWN)})"
            for reason, paths in self.left_out.items()
        )


def list_folder(folder: Path, without: Path | None = None) -> FolderListing:
    """The images and videos of a folder and of those inside it, except one.

    Raises:
        FileNotFoundError: no such folder.
        OSError: a folder in it cannot be read.
        InputError: neither images nor videos in it; the text says what is.
    """
    if not folder.is_dir():
        raise FileNotFoundError(2, "there is no such folder", str(folder))
    images, videos = [], []
    left_out: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(Path(place, name) for place, inside, files in walk(folder) for name in (*inside, *files)):
        if (
            path.is_dir()
            or without in path.parents
            or any(part.startswith(".") for part in path.relative_to(folder).parts)
        ):
            continue
        suffix = path.suffix.lower()
        if not path.is_file():
            left_out["that are no regular file" if path.exists() else "dead links"].append(path)
        elif suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif suffix in VIDEO_SUFFIXES:
            videos.append(path)
        else:
            left_out[f"of type {suffix}" if suffix else "without an ending"].append(path)
    listing = FolderListing(tuple(images), tuple(videos), dict(left_out))
    if not images and not videos:
        inside = f"; it holds {listing.left_out_text()}" if left_out else "; it is empty"
        raise InputError(f"{folder}: no images or videos in this folder ({_accepted_endings()}){inside}")
    return listing


def _accepted_endings() -> str:
    return f"accepted: {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}"


def find_source(place: str | Path | int) -> Source:
    """What a path, a camera's index or a URL is.

    Raises:
        FileNotFoundError: no such file or folder.
        InputError: something that no images come from.
    """
    if isinstance(place, int) and not isinstance(place, bool):
        return Source(SourceKind.CAMERA, place)
    if not isinstance(place, (str, Path)) or not str(place):
        raise InputError(f"a source is a path, a camera's index or a URL, got {place!r}")
    text = str(place)
    if isinstance(place, str) and _URL.match(text):
        return Source(SourceKind.URL, text)
    path = user_path(place)
    if not path.exists():
        if isinstance(place, str) and _CAMERA.fullmatch(text):
            return Source(SourceKind.CAMERA, int(text))
        raise FileNotFoundError(2, "there is no such file or folder", str(path))
    if path.is_dir():
        return Source(SourceKind.BAG if _is_bag_folder(path) else SourceKind.FOLDER, path)
    if not path.is_file():
        raise InputError(f"{path}: not a regular file; an image, a video, a bag or a folder is accepted")
    suffix = path.suffix.lower()
    for kind, suffixes in (
        (SourceKind.IMAGE, IMAGE_SUFFIXES),
        (SourceKind.VIDEO, VIDEO_SUFFIXES),
        (SourceKind.BAG, _BAG_SUFFIXES),
    ):
        if suffix in suffixes:
            return Source(kind, path)
    raise InputError(f"{path}: not an image, a video or a bag by its ending; {_accepted_endings()}, .mcap, .db3")


def _is_bag_folder(folder: Path) -> bool:
    return (folder / "metadata.yaml").is_file() or any(p.suffix in _BAG_SUFFIXES for p in folder.iterdir())


def frames(
    source: Source, topic: str | None = None, on_fault: Callable[[str], object] | None = None
) -> Iterator[Frame]:
    """Every image of a source, in order; a camera or live stream never ends by itself.

    Args:
        source: see `find_source`.
        topic: of a bag; None takes /image or the only image topic.
        on_fault: is told of every file or message that cannot be used, and the rest goes on; None raises.

    Raises:
        OSError, InputError: the source, or without `on_fault` one of its files or messages, cannot be read.
    """
    if topic is not None and source.kind is not SourceKind.BAG:
        raise InputError(
            f"{source}: a topic ({topic!r}) goes with a bag, not with this kind of source ({source.kind.value})"
        )
    if source.kind is SourceKind.BAG:
        yield from _bag_frames(source, topic, on_fault)
    elif source.kind is SourceKind.FOLDER:
        yield from _folder_frames(source, on_fault)
    elif source.kind is SourceKind.IMAGE:
        assert isinstance(source.place, Path)
        yield Frame(read_rgb(source.place), source.name, str(source), 0)
    else:
        yield from _video_frames(source)


def _video_frames(source: Source) -> Iterator[Frame]:
    with VideoReader(source.place) as reader:
        for index, frame in enumerate(reader.frames()):
            yield Frame(frame.image, f"{index:06d}", str(source), index, round(frame.seconds * 1e9))


def _folder_frames(source: Source, on_fault: Callable[[str], object] | None) -> Iterator[Frame]:
    assert isinstance(source.place, Path)
    listing = list_folder(source.place)
    files = sorted((*listing.images, *listing.videos))
    named = Counter(path.with_suffix("") for path in files)
    index = 0
    for path in files:
        inside = path.relative_to(source.place)
        inside = inside if named[path.with_suffix("")] > 1 else inside.with_suffix("")  # a.jpg beside a.png
        kind = SourceKind.VIDEO if path in listing.videos else SourceKind.IMAGE
        try:
            for frame in frames(Source(kind, path)):
                name = str(inside / frame.name) if kind is SourceKind.VIDEO else str(inside)
                yield Frame(frame.image, name, str(path), index, frame.stamp_ns)
                index += 1
        except (InputError, OSError) as error:
            if on_fault is None:
                raise
            on_fault(str(error))


def _bag_frames(source: Source, topic: str | None, on_fault: Callable[[str], object] | None) -> Iterator[Frame]:
    with extras_named():
        from seg_perception.bags.messages import IMAGE_TOPIC, IMAGE_TYPES, rgb_of, stamp_ns_of
        from seg_perception.bags.reader import BagReader

    assert isinstance(source.place, Path)
    with BagReader(source.place) as bag:
        name = topic or bag.topic_of_type(IMAGE_TYPES, "image topic", IMAGE_TOPIC).name
        if (found := bag.topic(name)).type not in IMAGE_TYPES:
            raise InputError(f"{source}: topic {name} is a {found.type}; images are {' or '.join(IMAGE_TYPES)}")
        for index, message in enumerate(bag.messages((name,))):
            try:
                decoded = bag.decode(message)
                image = rgb_of(decoded, message.topic.type)
            except InputError as error:
                if on_fault is None:
                    raise
                on_fault(f"{source} {name}, message {index}: {error}")
                continue
            yield Frame(image, f"{index:06d}", f"{source}:{name}", index, stamp_ns_of(decoded))


def pace(source: Source, topic: str | None = None) -> tuple[float, int]:
    """Frames a second of a video, bag, camera or URL, and how many frames it announces (0: unknown).

    Args:
        source: a film.
        topic: as `frames`.

    Raises:
        OSError, InputError: it cannot be opened.
    """
    if source.kind is SourceKind.CAMERA:
        return LIVE_FPS, 0
    if source.kind is not SourceKind.BAG:
        with VideoReader(source.place) as reader:
            return (LIVE_FPS, 0) if reader.is_live else (min(reader.fps, 120.0), reader.announced_frames)
    from seg_perception.bags.messages import IMAGE_TOPIC, IMAGE_TYPES
    from seg_perception.bags.reader import BagReader

    assert isinstance(source.place, Path)
    with BagReader(source.place) as bag:
        found = bag.topic(topic) if topic else bag.topic_of_type(IMAGE_TYPES, "image topic", IMAGE_TOPIC)
        stamps = np.sort([message.stamp_ns for message in bag.messages((found.name,))])
    gaps = np.diff(stamps)
    gaps = gaps[gaps > 0]
    return (min(120.0, 1e9 / float(np.median(gaps))) if gaps.size else LIVE_FPS), found.count


def count_frames(source: Source, topic: str | None = None) -> int:
    """How many frames a source has, as far as it says; 0: unknown."""
    if source.kind is SourceKind.FOLDER:
        assert isinstance(source.place, Path)
        listing = list_folder(source.place)
        return len(listing.images) + sum(_announced(video) for video in listing.videos)
    return 1 if source.kind is SourceKind.IMAGE else pace(source, topic)[1]


def _announced(video: Path) -> int:
    try:
        return pace(Source(SourceKind.VIDEO, video))[1]
    except InputError:  # told when its frames are asked for
        return 0
