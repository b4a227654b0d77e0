"""Other cars on the move."""

from __future__ import annotations

import numpy as np

from seg_perception.scenes.layout import Kind, Plan, Thing


class Traffic:
    """Cars ahead in the own direction keep a breathing gap; cars of the other direction come and pass."""

    LOOP = 260.0  # metres after which the oncoming traffic repeats

    def __init__(self, plan: Plan) -> None:
        rng = plan.rng(31)
        self.plan = plan
        self.dense = float(rng.choice([0.4, 0.8, 1.2]))
        self.gaps = np.cumsum(rng.uniform(9, 32, 6)) + 3
        self.leading = [float(gap) for gap in self.gaps if rng.random() < 0.5 * self.dense + 0.15]
        self.swing = rng.uniform(0.05, 0.12, 8)
        self.phase = rng.uniform(0, 6.28, 8)
        self.oncoming = [float(x) for x in np.cumsum(rng.uniform(14, 60, 12) / self.dense) if x < self.LOOP - 8]
        self.oncoming_speed = float(rng.uniform(7, 13))
        self.looks = rng.integers(0, 1 << 20, 64)
        self.lanes = rng.integers(0, plan.lanes, 64)

    def cars(self, ego_s: float, seconds: float) -> list[Thing]:
        """The moving cars near the ego car at a moment."""
        plan = self.plan
        found = []
        for k, gap in enumerate(self.leading):
            breathing = gap * (1 + self.swing[k] * np.sin(0.4 * seconds + self.phase[k]))
            braking = np.cos(0.4 * seconds + self.phase[k]) < -0.5
            lane = plan.lanes - 1 if k == 0 else int(self.lanes[k])
            d = plan.traffic * (lane + 0.5) * plan.lane_width + 0.15 * np.sin(0.3 * seconds + k)
            found.append(
                Thing(Kind.CAR, ego_s + breathing, d, 1.8, 1.5, int(self.looks[k]), tone=-1.0 if braking else 1.0)
            )
        travelled = self.oncoming_speed * seconds + ego_s
        for k, place in enumerate(self.oncoming):
            ahead = (place - travelled) % self.LOOP - 12
            lap = int((place - travelled) // self.LOOP)
            d = -plan.traffic * (int(self.lanes[32 + k]) + 0.5) * plan.lane_width
            look = int(self.looks[(16 + k + lap * 5) % 64])
            found.append(Thing(Kind.CAR, ego_s + ahead, d, 1.8, 1.5, look, turn=np.pi))
        return found
