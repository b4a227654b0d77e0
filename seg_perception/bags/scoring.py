"""Scores a label topic of a bag against a truth topic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seg_perception.bags.messages import IMAGE_TYPES, labels_of, stamp_ns_of
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import BagMessage
from seg_perception.core.errors import InputError
from seg_perception.core.label_set import LabelSet, load_label_set
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.types import LabelImage


@dataclass(frozen=True, slots=True)
class BagScore:
    """What a bag's labels are worth.

    Attributes:
        matrix: all pixels of all matched frames.
        matched: frames with labels and truth of the same stamp.
        labels_only, truth_only: frames that had no partner.
        notes: what was guessed or left out of the bag, one sentence each.
    """

    matrix: ConfusionMatrix
    matched: int
    labels_only: int
    truth_only: int
    notes: tuple[str, ...] = ()


class LabelPairs:
    """Two topics of mono8 (or PNG) pixels, frame by frame, matched by their headers' stamps.

    Iterate once; afterwards `matched` and `alone` say how it went.

    Raises:
        InputError: a topic is missing or of another type, or (while iterating) a stamp occurs twice.
    """

    def __init__(self, bag: BagReader, first: str, second: str) -> None:
        for name in (first, second):
            if (found := bag.topic(name)).type not in IMAGE_TYPES:
                raise InputError(f"{bag.path}: topic {name} is a {found.type}; labels are {' or '.join(IMAGE_TYPES)}")
        if first == second:
            raise InputError(f"topic {first} cannot be scored against itself")
        self._bag = bag
        self._names = (first, second)
        self._waiting: dict[str, dict[int, BagMessage]] = {first: {}, second: {}}
        self.matched = 0

    @property
    def alone(self) -> tuple[int, int]:
        """Messages of the first and of the second topic without a partner."""
        first, second = self._names
        return len(self._waiting[first]), len(self._waiting[second])

    def __iter__(self) -> Iterator[tuple[int, LabelImage, LabelImage]]:
        """The stamp in nanoseconds, and the pixels of both topics, uint8 [H, W]."""
        first, second = self._names
        seen: dict[str, set[int]] = {first: set(), second: set()}
        for message in self._bag.messages(self._names):
            name = message.topic.name
            other = second if name == first else first
            decoded = self._bag.decode(message)
            stamp_ns = stamp_ns_of(decoded)
            if stamp_ns in seen[name]:
                raise InputError(f"{self._bag.path}: topic {name} has two messages with the stamp {stamp_ns} ns")
            seen[name].add(stamp_ns)
            partner = self._waiting[other].pop(stamp_ns, None)
            if partner is None:
                self._waiting[name][stamp_ns] = message
                continue
            self.matched += 1
            mine = labels_of(decoded, message.topic.type)
            others = labels_of(self._bag.decode(partner), partner.topic.type)
            yield (stamp_ns, mine, others) if name == first else (stamp_ns, others, mine)


def score_bag(
    bag: str | Path | BagReader, labels_topic: str, truth_topic: str, label_set: str | Path | LabelSet = "driving"
) -> BagScore:
    """Compare a bag's label topic with its truth topic, frame by frame of equal stamps.

    Args:
        bag: its path, or opened.
        labels_topic: mono8 class ids to score.
        truth_topic: mono8 class ids; 255 is unlabeled.
        label_set: what the ids mean: a name, a YAML file, or loaded.

    Raises:
        FileNotFoundError: no such bag or label set.
        InputError: the bag is damaged; a topic is missing, of another type, or has a stamp twice; sizes differ, an id
            is no class, or no stamps match at all.
        SettingsError: the label set's file is malformed.
    """
    if isinstance(bag, (str, Path)):
        with BagReader(Path(bag)) as opened:
            return score_bag(opened, labels_topic, truth_topic, label_set)
    label_set = label_set if isinstance(label_set, LabelSet) else load_label_set(label_set)
    matrix = ConfusionMatrix(len(label_set))
    pairs = LabelPairs(bag, labels_topic, truth_topic)
    for stamp_ns, labels, truth in pairs:
        _add(matrix, truth, labels, f"{bag.path}: frame with the stamp {stamp_ns} ns")
    score = BagScore(matrix, pairs.matched, *pairs.alone, tuple(bag.notes))
    if not score.matched:
        raise InputError(
            f"{bag.path}: none of {score.labels_only} messages on {labels_topic} has the stamp of one of "
            f"{score.truth_only} on {truth_topic}: are they of the same drive?"
        )
    return score


def _add(matrix: ConfusionMatrix, truth: LabelImage, labels: LabelImage, source: str) -> None:
    try:
        matrix.add(truth, labels)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
