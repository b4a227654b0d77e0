"""Gates: conditions on an evaluation's or a comparison's metrics, by the names that a command line can hold."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from seg_perception.core.errors import InputError
from seg_perception.core.label_set import LabelSet
from seg_perception.evaluation import Evaluation

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = re.compile(r"\s*([^\W\d]\w*)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*%?\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """What turns a report into a gate: --fail-if "road_iou < 96" gives exit status 1 where it holds.

    Metrics are percents, but for latency_ms.
    """

    metric: str
    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse "road_iou < 96".

        Raises:
            InputError: not a metric, one of < <= > >=, and a number.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise InputError(
                f"condition {text!r} is not accepted: write METRIC < NUMBER (or <=, >, >=): 'road_iou < 96'"
            )
        return cls(found[1], found[2], float(found[3]))

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.limit:g}"

    def demand_known(self, metrics: Iterable[str]) -> None:
        """Check the metric's name: before the work, there is nothing to judge yet.

        Raises:
            InputError: there is no such metric; lists those there are.
        """
        names = sorted(metrics)
        if self.metric not in names:
            near = difflib.get_close_matches(self.metric, names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"condition '{self}': no metric is called {self.metric!r}; {hint}There are: {', '.join(names)}"
            )

    def holds(self, metrics: Mapping[str, float], where: str) -> bool:
        """Whether it holds.

        Args:
            metrics: name -> value.
            where: what they are of, for the error.

        Raises:
            InputError: there is no such metric, see `demand_known`, or it has no value.
        """
        self.demand_known(metrics)
        value = metrics[self.metric]
        if math.isnan(value):
            raise InputError(f"condition '{self}': {where} has no value of {self.metric}, none of it is in the images")
        return self.is_met_by(value)

    def is_met_by(self, value: float) -> bool:
        """Whether it holds of a value. 100 x 0.07 is not above 7: what binary fractions add is none."""
        return _OPERATORS[self.comparison](round(value, 9), self.limit)


def judgments(
    conditions: Iterable[Condition], metrics: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[str]]:
    """A sentence for each condition and each evaluation of `metrics`: those for which it holds, and the others.

    Raises:
        InputError: see `Condition.holds`.
    """
    held: list[str] = []
    others: list[str] = []
    for condition in conditions:
        for where, values in metrics.items():
            holds = condition.holds(values, where)
            value = _readable(values[condition.metric], condition)
            (held if holds else others).append(f"{where}: {condition} ({value})")
    return held, others


def _readable(value: float, condition: Condition) -> str:
    """With two decimals, and more where two would tell of the other side of the limit."""
    texts = (f"{value:.{digits}f}" for digits in range(2, 10))
    right = (text for text in texts if condition.is_met_by(float(text)) == condition.is_met_by(value))
    return next(right, repr(value))


_RESERVED = frozenset({"mean", "drivable", "frequency_weighted", "boundary_mean"})
"""Metrics of all classes end in _iou, too."""


def class_metrics(label_set: LabelSet) -> dict[str, str]:
    """Class -> the name of its IoU: "traffic light" is traffic_light_iou.

    A class whose name would be another's (traffic-light), a metric of all classes (mean), or one of A's or of a
    difference (a_...), has its id in front: id3_mean_iou.
    """
    plain = [re.sub(r"\W", "_", name) for name in label_set.names]
    count = Counter(plain)
    names = {}
    for c, name in zip(label_set.classes, plain, strict=True):
        taken = count[name] > 1 or name in _RESERVED or re.match(r"a_|diff_|id\d+_|\d|$", name)
        names[c.name] = f"id{c.id}_{name}_iou" if taken else f"{name}_iou"
    return names


def gate_metrics(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's percents by the names that conditions use, not rounded; NaN without a value."""
    of_classes = class_metrics(evaluation.label_set)
    return {
        of_classes[name.removeprefix("iou/")] if name.startswith("iou/") else name: 100 * value
        for name, value in evaluation.fractions().items()
    }
