"""The world along the road: which things stand where.

The world is cut into cells of CELL metres of road. What stands in a cell follows from the drive's seed and the cell's
number alone, so any moment of a drive can be drawn without drawing those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from seg_perception.scenes.camera import Course, Floats, Wave
from seg_perception.scenes.facades import FACADE_VARIANTS, facade
from seg_perception.scenes.signs import LAMP_STATES, SIGN_VARIANTS

CELL = 20.0
ZONE = 160.0


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
    """One thing: where it stands, how wide and tall it is (metres), which look it has, how it moves.

    `turn` is a yaw in radians for cars; `speed` is metres a second along s for people and cars.
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
    """A pole with what it carries: signs (variant, height of the centre, size in metres) and traffic lights.

    `arm` is the length of a mast arm towards the road (signed, metres), 0 for none.
    """

    s: float
    d: float
    height: float
    radius: float
    signs: tuple[tuple[int, float, float], ...] = ()
    lights: tuple[tuple[str, float, float], ...] = ()  # state, height of the centre, sideways offset
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
    junction: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The road of one drive.

    Attributes:
        traffic: +1 where cars drive on the right, -1 on the left.
        lanes: lanes in each direction.
        parking: width of the parking strips, metres, 0 for none.
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
        """Metres from the centre line to the kerbs."""
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
        """Verge, pavement and front garden of one zone on one side, metres."""
        rng = self.rng(3, zone_index, side)
        zone = self.zones[zone_index % len(self.zones)]
        if zone is Zone.CITY:
            return (0.0 if rng.random() < 0.7 else 1.4), rng.uniform(2.2, 4.8), float(rng.choice([0.0, 0.0, 2.0]))
        if zone is Zone.SUBURB:
            return (0.0 if rng.random() < 0.5 else rng.uniform(1.2, 2.5)), rng.uniform(1.6, 2.4), rng.uniform(4, 9)
        if zone is Zone.PARK:
            return rng.uniform(1.5, 4.0), rng.uniform(1.8, 2.8), rng.uniform(7, 16)
        return rng.uniform(2.5, 6.0), rng.uniform(1.4, 2.2), rng.uniform(8, 26)

    def bounds(self, s: Floats, side: int) -> tuple[Floats, Floats, Floats]:
        """Distances from the centre line at s: end of verge, end of pavement, house line; smooth between zones."""
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
    zones = tuple(order[i] for i in rng.choice(4, 6, p=[0.42, 0.27, 0.18, 0.13]))
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


def make_cell(plan: Plan, index: int) -> Cell:
    """Everything that stands between s = index x CELL and the next cell."""
    start = index * CELL
    zone = plan.zone_of(start + CELL / 2)
    junction = plan.is_junction(index)
    houses: list[House] = []
    walls: list[Wall] = []
    posts: list[Post] = []
    things: list[Thing] = []
    for side in (-1, 1):
        rng = plan.rng(5, index, side)
        verge, walk, line = (float(v) for v in plan.bounds(np.array(start + CELL / 2), side))
        _frontage(rng, plan, zone, side, start, junction, line, houses, walls)
        _greenery(rng, plan, zone, side, start, junction, verge, walk, line, things)
        _street_furniture(rng, plan, zone, index, side, junction, verge, walk, posts, things)
        _people(rng, zone, side, start, plan.edge, verge, walk, things)
        if plan.parking and not junction and zone is not Zone.RURAL:
            for place in range(3):
                if rng.random() < (0.62 if zone is Zone.CITY else 0.4):
                    s = start + 3.6 + place * 6.2 + rng.uniform(-0.4, 0.4)
                    d = side * (plan.edge - plan.parking / 2 - 0.05 + rng.uniform(-0.1, 0.1))
                    turn = (0.0 if side * plan.traffic > 0 else np.pi) + rng.normal(0, 0.02)
                    things.append(Thing(Kind.CAR, s, d, 1.8, 1.5, int(rng.integers(1 << 20)), turn=turn))
        if junction and rng.random() < 0.6:  # waiting in the side road
            turn = -side * np.pi / 2
            d = side * (plan.edge + rng.uniform(4.5, 8))
            things.append(
                Thing(
                    Kind.CAR, start + 10 + side * plan.traffic * 1.8, d, 1.8, 1.5, int(rng.integers(1 << 20)), turn=turn
                )
            )
        if not junction and line > plan.edge + 7 and rng.random() < 0.3:  # on a drive or a car park
            d = side * (walk + 3.2)
            turn = rng.uniform(0, 6.28)
            things.append(
                Thing(Kind.CAR, start + rng.uniform(4, 16), d, 1.8, 1.5, int(rng.integers(1 << 20)), turn=turn)
            )
    return Cell(tuple(houses), tuple(walls), tuple(posts), tuple(things), junction)


def _frontage(
    rng: np.random.Generator,
    plan: Plan,
    zone: Zone,
    side: int,
    start: float,
    junction: bool,
    line: float,
    houses: list[House],
    walls: list[Wall],
) -> None:
    if junction:
        return
    tone = rng.uniform(0.75, 1.1)
    if zone in (Zone.CITY, Zone.SUBURB):
        if rng.random() < (0.9 if zone is Zone.CITY else 0.72):
            town = zone is Zone.CITY
            variant = int(rng.integers(0, 24) if town else rng.integers(24, FACADE_VARIANTS))
            house = facade(variant)
            if town:  # closed fronts: stretch to the cell, or two narrow houses
                cut = start + CELL * rng.uniform(0.4, 0.6)
                other = int(rng.integers(0, 24))
                houses.append(House(cut, start + CELL, side * line, 12, variant, tone))
                houses.append(
                    House(start, cut, side * (line + rng.choice([0.0, 0.0, 0.6])), 12, other, rng.uniform(0.75, 1.1))
                )
            else:
                near = start + rng.uniform(1, max(1.5, CELL - house.width - 1))
                houses.append(House(near, near + house.width, side * (line + rng.uniform(0, 2)), 9, variant, tone))
        else:
            walls.append(
                Wall("forest", start, start + CELL, side * (line + 5), rng.uniform(6, 10), int(rng.integers(3)), tone)
            )
        if zone is Zone.SUBURB and rng.random() < 0.75:
            look = str(rng.choice(["hedge", "hedge", "fence", "wall"]))
            d = side * (float(plan.bounds(np.array(start + 10.0), side)[1]) + 0.3)
            walls.append(
                Wall(
                    look,
                    start + 1,
                    start + rng.uniform(12, 19.5),
                    d,
                    rng.uniform(0.8, 1.7),
                    int(rng.integers(16)),
                    tone,
                )
            )
        return
    if rng.random() < (0.85 if zone is Zone.PARK else 0.6):
        walls.append(Wall("forest", start, start + CELL, side * line, rng.uniform(6, 13), int(rng.integers(3)), tone))
    if rng.random() < 0.25:
        d = side * (plan.edge + (0.7 if zone is Zone.RURAL else 0.4))
        walls.append(Wall("rail", start, start + CELL, d, 0.75, 0, tone))
    elif rng.random() < 0.25:
        d = side * (float(plan.bounds(np.array(start + 10.0), side)[1]) + 0.4)
        walls.append(Wall("fence", start, start + CELL, d, 1.1, int(rng.integers(16)), tone))


def _greenery(
    rng: np.random.Generator,
    plan: Plan,
    zone: Zone,
    side: int,
    start: float,
    junction: bool,
    verge: float,
    walk: float,
    line: float,
    things: list[Thing],
) -> None:
    if junction:
        return
    rhythm = plan.rng(6, int(start // ZONE), side)  # one planting for each zone
    avenue, species = rhythm.random() < (0.4 if zone is Zone.CITY else 0.5), int(rhythm.integers(40))
    if avenue:
        d = (plan.edge + verge) / 2 if verge > plan.edge + 1 else plan.edge + 0.7
        for s in (start + 4.0, start + 14.0):
            height = rng.uniform(5.5, 9)
            things.append(
                Thing(
                    Kind.TREE,
                    s,
                    side * d,
                    height * 0.8,
                    height,
                    (species + int(rng.integers(2)) * 5) % 40,
                    rng.uniform(0.8, 1.15),
                )
            )
    room = line - walk
    for _ in range({Zone.CITY: 0, Zone.SUBURB: 1, Zone.PARK: 3, Zone.RURAL: 2}[zone] if room > 3 else 0):
        height = rng.uniform(5, 12)
        d = side * rng.uniform(walk + 1.5, line)
        things.append(
            Thing(
                Kind.TREE,
                start + rng.uniform(1, 19),
                d,
                height * 0.75,
                height,
                int(rng.integers(40)),
                rng.uniform(0.75, 1.15),
            )
        )
    for _ in range(int(rng.integers(0, 4)) if room > 1.5 else 0):
        height = rng.uniform(0.6, 2.2)
        d = side * rng.uniform(walk + 0.8, max(walk + 1.0, min(line, walk + 6)))
        things.append(
            Thing(
                Kind.BUSH,
                start + rng.uniform(1, 19),
                d,
                height * rng.uniform(1.2, 2.4),
                height,
                int(rng.integers(16)),
                rng.uniform(0.8, 1.2),
            )
        )


def _street_furniture(
    rng: np.random.Generator,
    plan: Plan,
    zone: Zone,
    index: int,
    side: int,
    junction: bool,
    verge: float,
    walk: float,
    posts: list[Post],
    things: list[Thing],
) -> None:
    start = index * CELL
    d = side * (plan.edge + 0.55)
    shade = rng.uniform(0.5, 1.3)
    if (index + (side > 0)) % 2 == 0 and zone is not Zone.RURAL:
        height = rng.uniform(6.0, 9.0)
        things.append(Thing(Kind.LAMP_POST, start + 8.0, d, -side * rng.uniform(0.8, 2.2), height, index, shade))
    elif zone is Zone.RURAL and index % 2 == 0:
        posts.append(Post(start + 8.0, side * (walk + 0.6), 8.5, 0.13, shade=0.8))
    if not junction and rng.random() < 0.62:
        main = int(rng.integers(SIGN_VARIANTS))
        wide = main in (9, 10, 11)
        size = rng.uniform(0.6, 0.85) if not wide else rng.uniform(0.9, 1.5)
        height = rng.uniform(2.1, 2.7) + size / 2
        signs = [(main, height, size)]
        if rng.random() < 0.45:
            signs.append((int(rng.choice([0, 2, 4, 8, 12, 15, 15])), height - size / 2 - 0.34, 0.55))
        posts.append(
            Post(
                start + rng.uniform(1, 19),
                d + side * rng.uniform(0, 0.5),
                height + 0.1,
                0.038,
                tuple(signs),
                shade=shade,
            )
        )
    if zone is Zone.CITY and not junction and rng.random() < 0.22:
        for step in range(5):
            things.append(Thing(Kind.BOLLARD, start + 2 + step * 3.2, side * (plan.edge + 0.35), 0.14, 1.0, index))
    if junction:
        state = str(plan.rng(7, index).choice(LAMP_STATES, p=[0.4, 0.1, 0.5]))
        own = side * plan.traffic > 0
        stop = start + 3.0 if own else start + 17.5
        arm = -side * rng.uniform(2.0, max(2.4, plan.edge - 0.5)) if own and rng.random() < 0.4 else 0.0
        lights = [(state, 2.6 + rng.uniform(0, 0.5), 0.0)]
        if arm:
            lights.append((state, 5.3, arm))
        signs2 = ((int(rng.choice([3, 8, 13])), 3.9, 0.62),) if rng.random() < 0.5 else ()
        posts.append(
            Post(
                stop,
                d,
                5.8 if arm else (4.3 if signs2 else 3.3),
                0.09 if arm else 0.06,
                signs2,
                tuple(lights),
                arm,
                shade,
            )
        )
        if rng.random() < 0.7:  # the far side repeats the light
            posts.append(Post(start + (17.0 if own else 3.5), d, 3.3, 0.06, (), ((state, 2.7, 0.0),), 0.0, shade))


def _people(
    rng: np.random.Generator,
    zone: Zone,
    side: int,
    start: float,
    edge: float,
    verge: float,
    walk: float,
    things: list[Thing],
) -> None:
    count = rng.poisson({Zone.CITY: 1.1, Zone.SUBURB: 0.35, Zone.PARK: 0.35, Zone.RURAL: 0.05}[zone])
    for _ in range(count):
        d = side * rng.uniform(verge + 0.4, max(verge + 0.5, walk - 0.3))
        speed = rng.uniform(0.9, 1.6) * rng.choice([-1, 1]) if rng.random() < 0.8 else 0.0
        things.append(
            Thing(
                Kind.PERSON,
                start + rng.uniform(2, 18),
                d,
                0.8,
                rng.uniform(1.6, 1.9),
                int(rng.integers(24)),
                speed=speed,
            )
        )
    if rng.random() < 0.08:
        things.append(Thing(Kind.CYCLIST, start + 10, side * (edge - 0.6), 0.8, 1.75, int(rng.integers(12)), speed=0.0))
