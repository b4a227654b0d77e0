"""Saves what is readable of a bag whose recorder was killed, or whose file was damaged, into a new bag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seg_perception.bags.locating import Located
from seg_perception.bags.mcap_records import expand_message
from seg_perception.bags.metadata import announced_counts
from seg_perception.bags.salvage import Losses, salvage
from seg_perception.bags.types import CDR, Topic
from seg_perception.bags.writer import BagWriter, check_apart
from seg_perception.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was saved.

    Attributes:
        recovered: messages by topic.
        damaged_chunks: whole chunks whose content is not what was written; left out.
        lost_bytes: in which no record was recognized, at the end or in between.
        left_out: single messages and records that could not be saved, by reason.
        notes: what was guessed.
    """

    recovered: dict[str, int]
    damaged_chunks: int
    lost_bytes: int
    left_out: Counter[str]
    notes: tuple[str, ...]


def recover(damaged: str | Path, out: str | Path, overwrite: bool = False) -> Recovery:
    """Copy every readable message of a damaged bag to a new one, whatever its index or metadata say.

    Args:
        damaged: an MCAP or SQLite file, or a folder of them.
        out: see `BagWriter`.

    Raises:
        FileNotFoundError: no such bag.
        FileExistsError: `out` exists and `overwrite` is false.
        InputError: no bag, one without messages of ROS 2, or no message in it can be read.
    """
    damaged, out = Path(damaged), Path(out)
    check_apart(damaged, out)
    located = Located(damaged, tolerant=True)
    try:
        with BagWriter(out, overwrite=overwrite) as written:
            losses = Losses(left_out=Counter(located.left_out))
            saved = _Saved(written, losses)
            for part in located.parts:
                for topic, stamp_ns, data in salvage(part.readable, part.storage, losses):
                    saved.take(topic, stamp_ns, data)
            if located.metadata is not None:
                saved.compare(announced_counts(located.metadata.topics), located.metadata.message_count)
            if not saved.serializations:
                raise InputError(f"{damaged}: there is no whole message in it")
            if CDR not in saved.serializations:
                kinds = ", ".join(sorted(saved.serializations))
                raise InputError(
                    f"{damaged} holds no messages of ROS 2, only such as are serialized in {kinds}; "
                    "the tool 'mcap recover' of mcap.dev saves those"
                )
            counts = written.counts
    finally:
        located.close()
    notes = tuple(dict.fromkeys([*located.notes, *losses.notes]))
    return Recovery(counts, losses.damaged_chunks, losses.lost_bytes, losses.left_out, notes)


class _Saved:
    """Adds topics to the new bag as their first messages come."""

    def __init__(self, out: BagWriter, losses: Losses) -> None:
        self._out = out
        self._losses = losses
        self._types: dict[str, tuple[str, str]] = {}
        self.serializations: set[str] = set()

    def take(self, topic: Topic, stamp_ns: int, data: bytes) -> None:
        kind = (topic.type, topic.serialization)
        if topic.name not in self._types:
            try:
                self._out.add_topic(topic.name, topic.definition, topic.qos, topic.serialization)
            except InputError as error:
                self._losses.left_out[str(error)] += 1
                return
            self._types[topic.name] = kind
            self.serializations.add(topic.serialization)
        if self._types[topic.name] != kind:
            first = self._types[topic.name][0]
            self._losses.left_out[f"message on {topic.name} of type {topic.type}; its others are {first}"] += 1
            return
        try:
            self._out.write_raw(topic.name, stamp_ns, expand_message(data) if topic.serialization == CDR else data)
        except InputError as error:
            self._losses.left_out[str(error)] += 1

    def compare(self, announced: Mapping[tuple[str, str], int], total: int) -> None:
        """Count what metadata.yaml announces, by topic and in all, and the files do not hold."""
        counts = self._out.counts
        for (name, _), count in announced.items():
            if (missing := count - counts.get(name, 0)) > 0:
                self._losses.left_out[f"message on {name} that metadata.yaml announces; it is not there"] += missing
        if (missing := total - max(sum(counts.values()), sum(announced.values()))) > 0:
            self._losses.left_out["message of a topic that metadata.yaml does not name; it is not there"] += missing
