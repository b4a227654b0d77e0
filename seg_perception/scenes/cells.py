"""What stands in each cell of the world."""

from __future__ import annotations

import numpy as np

from seg_perception.scenes.facades import FACADE_VARIANTS, TOWN_VARIANTS, facade
from seg_perception.scenes.layout import CELL, ZONE, Cell, House, Kind, Plan, Post, Thing, Wall, Zone
from seg_perception.scenes.plants import BUSH_VARIANTS, TREE_VARIANTS
from seg_perception.scenes.signs import LAMP_STATES, SIGN_VARIANTS, WIDE_SIGNS

_PEOPLE = {Zone.CITY: 1.1, Zone.SUBURB: 0.35, Zone.PARK: 0.35, Zone.RURAL: 0.05}  # on one side of one cell
_GARDEN_TREES = {Zone.CITY: 0, Zone.SUBURB: 1, Zone.PARK: 3, Zone.RURAL: 2}


def make_cell(plan: Plan, index: int) -> Cell:
    """Everything that stands between s = index x CELL and the next cell."""
    left, right = _Side(plan, index, -1), _Side(plan, index, 1)
    for side in (left, right):
        side.furnish()
    return Cell(
        tuple(left.houses + right.houses),
        tuple(left.walls + right.walls),
        tuple(left.posts + right.posts),
        tuple(left.things + right.things),
    )


class _Side:
    """One side of one cell while it is being furnished."""

    def __init__(self, plan: Plan, index: int, side: int) -> None:
        self.plan = plan
        self.index = index
        self.side = side
        self.rng = plan.rng(5, index, side)
        self.start = index * CELL
        self.zone = plan.zone_of(self.start + CELL / 2)
        self.junction = plan.is_junction(index)
        self.verge, self.walk, self.line = (float(v) for v in plan.bounds(np.array(self.start + CELL / 2), side))
        self.houses: list[House] = []
        self.walls: list[Wall] = []
        self.posts: list[Post] = []
        self.things: list[Thing] = []

    def furnish(self) -> None:
        if self.junction:
            self._signals()
        else:
            self._frontage()
            self._greenery()
            self._signs()
        self._lamps()
        self._people()
        self._parked()

    def _frontage(self) -> None:
        rng, start, side, line = self.rng, self.start, self.side, self.line
        tone = rng.uniform(0.75, 1.1)
        if self.zone is Zone.CITY and rng.random() < 0.93:  # closed fronts: two houses fill the cell
            cut = start + CELL * rng.uniform(0.35, 0.65)
            for near, far in ((start, cut), (cut, start + CELL)):
                back = float(rng.choice([0.0, 0.0, 0.6]))
                look = int(rng.integers(TOWN_VARIANTS))
                self.houses.append(House(near, far, side * (line + back), 12, look, rng.uniform(0.75, 1.1)))
        elif self.zone is Zone.SUBURB and rng.random() < 0.78:
            look = int(rng.integers(TOWN_VARIANTS, FACADE_VARIANTS))
            width = facade(look).width
            near = start + rng.uniform(1, max(1.5, CELL - width - 1))
            self.houses.append(House(near, near + width, side * (line + rng.uniform(0, 2)), 9, look, tone))
        elif self.zone is not Zone.RURAL or rng.random() < 0.6:
            self._wall("forest", line + (4 if self.zone in (Zone.CITY, Zone.SUBURB) else 0), rng.uniform(6, 12))
        fence_line = self.walk + 0.35
        if self.zone is Zone.SUBURB and rng.random() < 0.75:
            look_of_fence = str(rng.choice(["hedge", "hedge", "fence", "wall"]))
            self._wall(look_of_fence, fence_line, rng.uniform(0.8, 1.7), rng.uniform(0, 7))
        elif self.zone in (Zone.PARK, Zone.RURAL) and rng.random() < 0.22:
            self._wall("rail", self.plan.edge + (0.7 if self.zone is Zone.RURAL else 0.4), 0.75)
        elif self.zone in (Zone.PARK, Zone.RURAL) and rng.random() < 0.3:
            self._wall("fence", fence_line, 1.1)

    def _wall(self, look: str, away: float, height: float, gap: float = 0.0) -> None:
        variant, tone = int(self.rng.integers(1 << 10)), self.rng.uniform(0.75, 1.1)
        self.walls.append(Wall(look, self.start, self.start + CELL - gap, self.side * away, height, variant, tone))

    def _greenery(self) -> None:
        rng, start, side = self.rng, self.start, self.side
        planting = self.plan.rng(6, int(start // ZONE), side)  # one avenue for each zone
        species = int(planting.integers(TREE_VARIANTS))
        if planting.random() < 0.45:
            wide_verge = self.verge > self.plan.edge + 1
            d = side * ((self.plan.edge + self.verge) / 2 if wide_verge else self.plan.edge + 0.8)
            for s in (start + 4.0, start + 14.0):
                height, twin = rng.uniform(5.5, 9), (species + 5 * int(rng.integers(2))) % TREE_VARIANTS
                self.things.append(Thing(Kind.TREE, s, d, height * 0.8, height, twin, rng.uniform(0.8, 1.15)))
        room = self.line - self.walk
        if room < 1.5:
            return
        for _ in range(_GARDEN_TREES[self.zone] if room > 3 else 0):
            height, d = rng.uniform(5, 12), side * rng.uniform(self.walk + 1.5, self.line)
            look, tone = int(rng.integers(TREE_VARIANTS)), rng.uniform(0.75, 1.15)
            self.things.append(Thing(Kind.TREE, start + rng.uniform(1, 19), d, height * 0.75, height, look, tone))
        for _ in range(int(rng.integers(0, 4))):
            height = rng.uniform(0.6, 2.2)
            d = side * rng.uniform(self.walk + 0.8, max(self.walk + 1.0, min(self.line, self.walk + 6)))
            look, tone = int(rng.integers(BUSH_VARIANTS)), rng.uniform(0.8, 1.2)
            width = height * rng.uniform(1.2, 2.4)
            self.things.append(Thing(Kind.BUSH, start + rng.uniform(1, 19), d, width, height, look, tone))

    def _lamps(self) -> None:
        rng, side, edge = self.rng, self.side, self.plan.edge
        if (self.index + (side > 0)) % 2 == 0 and self.zone is not Zone.RURAL:
            arm, height, tone = -side * rng.uniform(0.8, 2.2), rng.uniform(6.0, 9.0), rng.uniform(0.5, 1.3)
            d = side * (edge + 0.55)
            self.things.append(Thing(Kind.LAMP_POST, self.start + 8.0, d, arm, height, self.index, tone))
        elif self.zone is Zone.RURAL and self.index % 2 == 0:  # telegraph poles
            self.posts.append(Post(self.start + 8.0, side * (self.walk + 0.6), 8.5, 0.13, shade=0.8))
        if self.zone is Zone.CITY and not self.junction and rng.random() < 0.22:
            d = side * (edge + 0.35)
            places = (self.start + 2 + step * 3.2 for step in range(5))
            self.things.extend(Thing(Kind.BOLLARD, s, d, 0.14, 1.0, self.index) for s in places)

    def _signs(self) -> None:
        rng = self.rng
        if rng.random() > 0.62:
            return
        main = int(rng.integers(SIGN_VARIANTS))
        size = rng.uniform(0.9, 1.5) if main in WIDE_SIGNS else rng.uniform(0.6, 0.85)
        height = rng.uniform(2.1, 2.7) + size / 2
        signs = [(main, height, size)]
        if rng.random() < 0.45:
            signs.append((int(rng.choice([0, 2, 4, 8, 12, 15, 15])), height - size / 2 - 0.34, 0.55))
        s, d = self.start + rng.uniform(1, 19), self.side * (self.plan.edge + 0.5 + rng.uniform(0, 0.5))
        self.posts.append(Post(s, d, height + 0.1, 0.038, tuple(signs), shade=rng.uniform(0.5, 1.3)))

    def _signals(self) -> None:
        """Traffic lights before the crossing for the traffic of this side, often repeated behind it."""
        rng, start, plan = self.rng, self.start, self.plan
        state = str(plan.rng(7, self.index).choice(LAMP_STATES, p=[0.4, 0.1, 0.5]))
        own = self.side * plan.traffic > 0
        d, shade = self.side * (plan.edge + 0.55), rng.uniform(0.5, 1.3)
        arm = -self.side * rng.uniform(2.0, max(2.4, plan.edge - 0.5)) if own and rng.random() < 0.4 else 0.0
        signs = ((int(rng.choice([3, 8, 13])), 3.9, 0.62),) if rng.random() < 0.5 else ()
        lights = [(state, 2.6 + rng.uniform(0, 0.5), 0.0)]
        height, radius = (4.3 if signs else 3.3), 0.06
        if arm:
            lights.append((state, 5.3, arm))
            height, radius = 5.8, 0.09
        self.posts.append(Post(start + (3.0 if own else 17.5), d, height, radius, signs, tuple(lights), arm, shade))
        if rng.random() < 0.7:
            repeat = ((state, 2.7, 0.0),)
            self.posts.append(Post(start + (17.0 if own else 3.5), d, 3.3, 0.06, (), repeat, 0.0, shade))

    def _people(self) -> None:
        rng = self.rng
        for _ in range(rng.poisson(_PEOPLE[self.zone])):
            d = self.side * rng.uniform(self.verge + 0.4, max(self.verge + 0.5, self.walk - 0.3))
            speed = rng.uniform(0.9, 1.6) * rng.choice([-1, 1]) if rng.random() < 0.8 else 0.0
            s, look = self.start + rng.uniform(2, 18), int(rng.integers(24))
            self.things.append(Thing(Kind.PERSON, s, d, 0.8, rng.uniform(1.6, 1.9), look, speed=speed))
        if rng.random() < 0.08:
            d = self.side * (self.plan.edge - 0.6)
            self.things.append(Thing(Kind.CYCLIST, self.start + 10, d, 0.8, 1.75, int(rng.integers(12))))

    def _parked(self) -> None:
        rng, plan, side, start = self.rng, self.plan, self.side, self.start
        along = 0.0 if side * plan.traffic > 0 else np.pi
        if plan.parking and not self.junction and self.zone is not Zone.RURAL:
            for place in range(3):
                if rng.random() < (0.62 if self.zone is Zone.CITY else 0.4):
                    s = start + 3.6 + place * 6.2 + rng.uniform(-0.4, 0.4)
                    d = plan.edge - plan.parking / 2 - 0.05 + rng.uniform(-0.1, 0.1)
                    self._car(s, d, along + rng.normal(0, 0.02))
        if self.junction and rng.random() < 0.6:  # waiting in the side road
            self._car(start + 10 + side * plan.traffic * 1.8, plan.edge + rng.uniform(4.5, 8), -side * np.pi / 2)
        if not self.junction and self.line > plan.edge + 7 and rng.random() < 0.3:  # on a drive or a car park
            self._car(start + rng.uniform(4, 16), self.walk + 3.2, rng.uniform(0, 6.28))

    def _car(self, s: float, away: float, turn: float) -> None:
        look = int(self.rng.integers(1 << 20))
        self.things.append(Thing(Kind.CAR, s, self.side * away, 1.8, 1.5, look, turn=turn))
