"""The world along the road: which things stand where.

The world is cut into cells of CELL meters of road. What stands in a cell follows from the drive's seed and the cell's
number alone, so any moment of a drive can be drawn without drawing those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from seg_perception.scenes.camera import Course, Floats, Wave
from seg_perception.scenes.facades import FACADE_VARIANTS, TOWN_VARIANTS, facade
from seg_perception.scenes.sprites import BUSH_VARIANTS, LAMP_STATES, SIGN_VARIANTS, TREE_VARIANTS, WIDE_SIGNS

CELL = 20.0
ZONE = 160.0


class SceneClass(IntEnum):
    """Class ids in the label images: those of the shipped label set `driving`; a test holds the two together."""

    ROAD = 0
    SIDEWALK = 1
    POLE = 2
    TRAFFIC_LIGHT = 3
    TRAFFIC_SIGN = 4
    VEGETATION = 5
    TERRAIN = 6
    SKY = 7
    CAR = 8
    BACKGROUND = 9


class Zone(IntEnum):
    """What kind of place a stretch of road runs through."""

    CITY = 0
    SUBURB = 1
    PARK = 2
    RURAL = 3


class Kind(Enum):
    """Things that stand at one place."""

    TREE = "tree"
    BUSH = "bush"
    PERSON = "person"
    CYCLIST = "cyclist"
    LAMP_POST = "lamp post"
    BOLLARD = "bollard"
    CAR = "car"


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing: where it stands, how wide and tall it is (meters), which look it has, how it moves.

    `turn` is a yaw in radians for cars; `speed` is meters a second along s for people and cars.
    """

    kind: Kind
    s: float
    d: float
    width: float
    height: float
    variant: int
    tone: float = 1.0
    speed: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True, slots=True)
class Post:
    """A pole with what it carries: signs (variant, height of the center, size in meters) and traffic lights.

    `arm` is the length of a mast arm towards the road (signed, meters), 0 for none.
    """

    s: float
    d: float
    height: float
    radius: float
    signs: tuple[tuple[int, float, float], ...] = ()
    lights: tuple[tuple[str, float, float], ...] = ()  # state, height of the center, sideways offset
    arm: float = 0.0
    shade: float = 1.0


@dataclass(frozen=True, slots=True)
class House:
    """A building whose front stands along the road from s_near to s_far at lateral position d."""

    s_near: float
    s_far: float
    d: float
    depth: float
    variant: int
    tone: float


@dataclass(frozen=True, slots=True)
class Wall:
    """A long low thing along the road: `look` is "hedge", "fence", "wall", "rail" or "forest"."""

    look: str
    s_near: float
    s_far: float
    d: float
    height: float
    variant: int
    tone: float = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """Everything in one cell, in the groups in which it is painted: far from the road first."""

    houses: tuple[House, ...]
    walls: tuple[Wall, ...]
    posts: tuple[Post, ...]
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The road of one drive.

    Attributes:
        traffic: +1 where cars drive on the right, -1 on the left.
        lanes: lanes in each direction.
        parking: width of the parking strips, meters, 0 for none.
        marked: the lanes have white lines.
        junction_every: cells from one crossing to the next.
    """

    seed: int
    course: Course
    traffic: int
    lanes: int
    lane_width: float
    parking: float
    marked: bool
    junction_every: int
    zones: tuple[Zone, ...]
    speed: float

    @property
    def edge(self) -> float:
        """Meters from the center line to the kerbs."""
        return self.lanes * self.lane_width + self.parking

    @property
    def own_lane(self) -> float:
        """D of the middle of the lane the ego car drives in."""
        return self.traffic * (self.lanes - 0.5) * self.lane_width

    def zone_of(self, s: float) -> Zone:
        return self.zones[int(s // ZONE) % len(self.zones)]

    def rng(self, *key: int) -> np.random.Generator:
        """A generator that depends on the drive's seed and a key alone."""
        return np.random.default_rng([self.seed & 0xFFFFFFFF, *(k & 0xFFFFFFFF for k in key)])

    def widths(self, zone_index: int, side: int) -> tuple[float, float, float]:
        """Verge, pavement and front garden of one zone on one side, meters."""
        rng = self.rng(3, zone_index, side)
        zone = self.zones[zone_index % len(self.zones)]
        if zone is Zone.CITY:
            return (0.0 if rng.random() < 0.7 else 1.4), rng.uniform(2.4, 6.0), float(rng.choice([0.0, 0.0, 2.0]))
        if zone is Zone.SUBURB:
            return (0.0 if rng.random() < 0.5 else rng.uniform(1.2, 2.5)), rng.uniform(1.6, 2.4), rng.uniform(4, 9)
        if zone is Zone.PARK:
            return rng.uniform(1.5, 4.0), rng.uniform(1.8, 2.8), rng.uniform(7, 16)
        return rng.uniform(2.5, 6.0), rng.uniform(1.4, 2.2), rng.uniform(8, 26)

    def bounds(self, s: Floats, side: int) -> tuple[Floats, Floats, Floats]:
        """Distances from the center line at s: end of verge, end of pavement, house line; smooth between zones."""
        index = np.floor(s / ZONE).astype(int)
        into = s - index * ZONE
        blend = np.clip((into - (ZONE - 12)) / 12, 0, 1)
        blend = blend * blend * (3 - 2 * blend)
        table = {i: self.widths(int(i), side) for i in np.unique([index, index + 1])}
        here = np.array([table[i] for i in index.reshape(-1)]).reshape(*index.shape, 3)
        after = np.array([table[i + 1] for i in index.reshape(-1)]).reshape(*index.shape, 3)
        widths = here * (1 - blend[..., None]) + after * blend[..., None]
        ends = self.edge + np.cumsum(widths, axis=-1)
        return ends[..., 0], ends[..., 1], ends[..., 2]

    def is_junction(self, cell: int) -> bool:
        return cell % self.junction_every == self.junction_every // 2


def make_plan(seed: int) -> Plan:
    """Draw the road of a drive."""
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 1])
    bend = float(rng.choice([0.0, 0.0, rng.uniform(2, 8), rng.uniform(8, 16)]))
    bends = (
        Wave(bend, rng.uniform(260, 420), rng.uniform(0, 6.28)),
        Wave(bend * 0.3, rng.uniform(150, 220), rng.uniform(0, 6.28)),
    )
    hill = float(rng.choice([0.0, rng.uniform(0.3, 2.2)]))
    hills = (Wave(hill, rng.uniform(260, 420), rng.uniform(0, 6.28)),)
    lanes = int(rng.choice([1, 1, 1, 2]))
    order = [Zone.CITY, Zone.SUBURB, Zone.PARK, Zone.RURAL]
    zones = tuple(order[i] for i in rng.choice(4, 6, p=[0.5, 0.25, 0.15, 0.1]))
    parking = float(rng.choice([0.0, 2.1, 2.2]))
    return Plan(
        seed=seed,
        course=Course(bends if bend else (), hills if hill else ()),
        traffic=1 if rng.random() < 0.7 else -1,
        lanes=lanes,
        lane_width=rng.uniform(2.9, 3.6),
        parking=parking,
        marked=bool(rng.random() < 0.88),
        junction_every=int(rng.integers(4, 8)),
        zones=zones,
        speed=rng.uniform(6.0, 14.0),
    )


class Traffic:
    """Cars ahead in the own direction keep a breathing gap; cars of the other direction come and pass."""

    LOOP = 260.0  # meters after which the oncoming traffic repeats

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
