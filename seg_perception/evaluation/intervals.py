"""Confidence intervals of differences: a paired bootstrap over frames (Efron and Tibshirani 1993).

Frames are drawn with replacement, the same for A and B. A plain percentile interval is too narrow where frames are few:
its 95 % hold for 87 % of ten frames. So its tails are those of Student's distribution (Hesterberg 2015, "expanded
percentile interval", doi:10.1080/00031305.2015.1089789), which hold for 93 %; and of fewer than ten frames, or of a
class that fewer than ten frames hold, no interval is told: from one frame every difference would look sure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEAST_FRAMES = 10


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % confidence interval; NaN where there is nothing to speak of.

    Attributes:
        value: NaN where it has none.
        low, high: NaN where it has none, or fewer than `LEAST_FRAMES` frames tell of it.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: NDArray[np.float64], frames: int) -> Interval:
        """From the values of many draws, NaN where a draw has none, and the number of frames that tell of it."""
        known = resampled[~np.isnan(resampled)]
        if frames < LEAST_FRAMES or not known.size or math.isnan(value):
            return cls(float(value), math.nan, math.nan)
        tail = 100 * _tail(frames)
        low, high = np.percentile(known, [tail, 100 - tail])
        return cls(float(value), float(low), float(high))

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves zero out: a difference that another choice of frames would show, too.

        As it is told, in hundredths of a percent: what rounds to zero is none.
        """
        return round(self.low, 4) > 0 or round(self.high, 4) < 0  # False of NaN


def draws(frames: int) -> NDArray[np.float64]:
    """How often each frame is drawn, [RESAMPLES, frames]; the same every time."""
    random = np.random.default_rng(1)
    return random.multinomial(frames, np.full(frames, 1 / frames), RESAMPLES).astype(np.float64)


def _tail(frames: int) -> float:
    """The share of the draws below a 95 % interval: 0.025 of very many frames, 0.0087 of ten."""
    normal, nu = NormalDist(), frames - 1
    z = normal.inv_cdf(0.975)
    # Student's 97.5 % point, by Fisher's expansion: off by 0.0003 for nine degrees of freedom
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
    return normal.cdf(-math.sqrt(frames / nu) * t)
