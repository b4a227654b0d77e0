"""Conditions that turn a report into a gate: --fail-if "road_iou < 96" gives exit status 1 where it holds."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from seg_perception.core.errors import InputError
from seg_perception.evaluation.comparison import metric_name
from seg_perception.evaluation.evaluator import Evaluation

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = re.compile(r"\s*([A-Za-z]\w*)\s*(<=|>=|<|>)\s*([-+]?\d+(?:\.\d+)?)\s*%?\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; metrics are percents, but for latency_ms."""

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
        return _OPERATORS[self.comparison](value, self.limit)


def failures(conditions: Iterable[Condition], metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence for each condition and each evaluation of `metrics` for which it holds.

    Raises:
        InputError: see `Condition.holds`.
    """
    return [
        f"{where}: {condition} ({values[condition.metric]:.2f})"
        for condition in conditions
        for where, values in metrics.items()
        if condition.holds(values, where)
    ]


def gate_metrics(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's percents by the names that conditions use, NaN without a value: traffic_light_iou is
    "iou/traffic light".
    """
    return {
        f"{metric_name(name.removeprefix('iou/'))}_iou" if name.startswith("iou/") else name: value
        for name, value in evaluation.all_percentages().items()
    }
