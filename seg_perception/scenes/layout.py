"""The world along the road: which things stand where.

The world is cut into cells of CELL meters of road. What stands in a cell follows from the drive's seed and the cell's
number alone, so any moment of a drive can be drawn without drawing those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from seg_perception.scenes.camera import Course, Floats, Wave

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
