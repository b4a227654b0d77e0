"""Scores a label topic of a bag against a truth topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seg_perception.bags.images import IMAGE_TYPES, labels_of
from seg_perception.bags.messages import stamp_ns_of
from seg_perception.bags.reader import BagReader
from seg_perception.core.errors import InputError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.types import LabelImage


@dataclass(frozen=True, slots=True)
class BagScore:
    """What a bag's labels are worth.

    Attributes:
        matrix: all pixels of all matched frames.
        matched: frames with labels and truth of the same stamp.
        labels_only, truth_only: frames that had no partner.
    """

    matrix: ConfusionMatrix
    matched: int
    labels_only: int
    truth_only: int


def score_bag(bag: BagReader, labels_topic: str, truth_topic: str, label_set: LabelSet) -> BagScore:
    """Compare two topics of mono8 (or PNG) class ids, frame by frame, matched by their headers' stamps.

    Raises:
        InputError: a topic is missing or of another type, a stamp occurs twice, sizes differ, an id
            is no class, or no stamps match at all.
    """
    for name in (labels_topic, truth_topic):
        if (found := bag.topic(name)).type not in IMAGE_TYPES:
            raise InputError(f"{bag.path}: topic {name} is a {found.type}; labels are {' or '.join(IMAGE_TYPES)}")
    if labels_topic == truth_topic:
        raise InputError(f"topic {labels_topic} cannot be scored against itself")
    matrix = ConfusionMatrix(len(label_set))
    waiting: dict[str, dict[int, Any]] = {labels_topic: {}, truth_topic: {}}
    seen: dict[str, set[int]] = {labels_topic: set(), truth_topic: set()}
    matched = 0
    for message in bag.messages((labels_topic, truth_topic)):
        name = message.topic.name
        other = truth_topic if name == labels_topic else labels_topic
        decoded = bag.decode(message)
        stamp_ns = stamp_ns_of(decoded)
        if stamp_ns in seen[name]:
            raise InputError(f"{bag.path}: topic {name} has two messages with the stamp {stamp_ns} ns")
        seen[name].add(stamp_ns)
        partner = waiting[other].pop(stamp_ns, None)
        if partner is None:
            waiting[name][stamp_ns] = message
            continue
        both: dict[str, LabelImage] = {
            name: labels_of(decoded, message.topic.type),
            other: labels_of(bag.decode(partner), partner.topic.type),
        }
        try:
            matrix.add(both[truth_topic], both[labels_topic])
        except InputError as error:
            raise InputError(f"{bag.path}: frame with the stamp {stamp_ns} ns: {error}") from error
        matched += 1
    score = BagScore(matrix, matched, len(waiting[labels_topic]), len(waiting[truth_topic]))
    if not matched:
        raise InputError(
            f"{bag.path}: none of {score.labels_only} messages on {labels_topic} has the stamp of one of "
            f"{score.truth_only} on {truth_topic}: are they of the same drive?"
        )
    return score
