"""Writes rosbag2 bags that `ros2 bag`, Foxglove and rosbags read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from backports import zstd
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter

from seg_perception.bags.reader import partial_path
from seg_perception.bags.types import OfferedQos, Storage, TypeDefinition
from seg_perception.bags.typestore import encode, standard_definition, with_digest
from seg_perception.core.errors import InputError

_BAG_SUFFIXES = (".mcap", ".db3", ".db3-wal", ".db3-shm", ".db3-journal", ".zstd")

_CHECKED = {int(zstd.CompressionParameter.checksum_flag): 1}


def _compress(data: bytes) -> bytes:
    """Zstd with a checksum, which every zstd decoder verifies: a flipped bit on the disk is found."""
    return zstd.compress(data, options=_CHECKED)


def check_bag_folder(folder: Path) -> None:
    """Make sure that a folder may be replaced: it holds bag files only.

    Raises:
        InputError: something in it is no part of a bag.
    """
    for inside in sorted(folder.rglob("*")):
        known = inside.is_dir() or inside.name == "metadata.yaml" or inside.suffix in _BAG_SUFFIXES
        if inside.is_symlink() or not known:
            raise InputError(
                f"{folder} is not replaced: {inside.relative_to(folder)} in it is no part of a bag; "
                "move it away, or choose another name"
            )


def remove_bag_folder(folder: Path) -> None:
    """Remove a folder that holds bag files only.

    Raises:
        InputError: something in it is no part of a bag; then everything stays.
    """
    check_bag_folder(folder)
    shutil.rmtree(folder)


class BagWriter:
    """A bag being written. The bag appears under its name only when it is complete.

    Until `close` it lies in the folder `<name>.partial` beside its final place. Leaving a `with`
    block by an exception drops it.

    Args:
        path: `x.mcap` or `x.db3` for a bag of one file; any other name makes a bag folder with
            metadata.yaml and an MCAP file.
        compress: zstd for the chunks of an MCAP file; SQLite bags are never compressed.
        overwrite: replace a bag of this name, and what an unfinished writer left; never a folder
            that holds anything but bag files.

    Raises:
        FileExistsError: the bag exists, or an unfinished one does, and `overwrite` is false.
        InputError: a folder of this name is not a bag.
    """

    def __init__(self, path: Path, compress: bool = True, overwrite: bool = False) -> None:
        self.path = path
        self._partial = partial_path(path)
        for existing in (path, self._partial):
            if existing.exists() and not overwrite:
                left = " (left by a run that did not finish)" if existing == self._partial else ""
                raise FileExistsError(f"{existing} exists already{left}: move or remove it first")
        if path.is_dir():
            check_bag_folder(path)
        if self._partial.exists():
            remove_bag_folder(self._partial)
        storage = Storage.of(path)
        # The library names the storage file after its folder, so the folder gets the stem: the name
        # inside the bag's own metadata is then the final one.
        self._folder = self._partial / (path.stem if storage else path.name)
        self._file = self._folder / f"{self._folder.name}{storage.suffix}" if storage else None
        plugin = StoragePlugin.SQLITE3 if storage is Storage.SQLITE3 else StoragePlugin.MCAP
        self._writer = Writer(self._folder, version=Writer.VERSION_LATEST, storage_plugin=plugin)
        if compress and plugin is StoragePlugin.MCAP:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections: dict[str, Connection] = {}
        self._definitions: dict[str, TypeDefinition] = {}
        self._counts: dict[str, int] = {}
        self._open = True
        self._writer.open()
        if compress and isinstance(self._writer.storage, McapWriter):
            self._writer.storage.compressor = _compress

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far, by topic."""
        return dict(self._counts)

    def add_topic(self, name: str, type_or_definition: str | TypeDefinition, qos: OfferedQos | None = None) -> None:
        """Declare a topic, once, before its first message.

        Args:
            name: absolute, such as "/image".
            type_or_definition: a standard type's name, or a definition.
            qos: what its publisher offered; reliable and volatile unless given.

        Raises:
            InputError: the topic exists already, or its type is not known.
        """
        if name in self._connections:
            raise InputError(f"{self.path}: topic {name} was added twice")
        definition = (
            standard_definition(type_or_definition)
            if isinstance(type_or_definition, str)
            else with_digest(type_or_definition)
        )
        self._connections[name] = self._writer.add_connection(
            name,
            definition.name,
            msgdef=definition.text,
            rihs01=definition.digest,
            offered_qos_profiles=[(qos or OfferedQos()).to_rosbags()],
        )
        self._definitions[name] = definition
        self._counts[name] = 0

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Serialize and append one message.

        Args:
            topic: one that was added.
            stamp_ns: record time in nanoseconds since 1970.
            message: an object with the type's fields, such as those of `bags.messages`.
        """
        self.write_raw(topic, stamp_ns, encode(message, self._definitions[topic]))

    def write_raw(self, topic: str, stamp_ns: int, data: bytes) -> None:
        """Append one message that is serialized already (CDR)."""
        self._writer.write(self._connections[topic], stamp_ns, data)
        self._counts[topic] += 1

    def close(self) -> None:
        """Finish the bag and move it to its name, in one step. Calling it twice is harmless."""
        if not self._open:
            return
        self._open = False
        self._writer.close()
        if self._file is not None:
            with self._file.open("rb") as written:
                os.fsync(written.fileno())
        if self.path.is_dir():
            remove_bag_folder(self.path)
        (self._file or self._folder).replace(self.path)
        shutil.rmtree(self._partial)

    def abort(self) -> None:
        """Drop the bag. Calling it twice is harmless."""
        if not self._open:
            return
        self._open = False
        self._writer.abort()
        shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
