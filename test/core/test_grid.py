"""The grid's rules, outline and distance, of masks and grids made by hand; numbers from x = f h / (row - cy)."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.grid import MAX_CORNERS, Cells, FreeSpace, GridRules, GridSettings, GridSpec, merge
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose
from seg_perception.core.label_set import load_label_set
from seg_perception.core.optics import CameraModel, Distortion
from seg_perception.core.types import Segmentation, Size

LABELS = load_label_set("driving")
ROAD, SIDEWALK, POLE, TERRAIN, CAR, BACKGROUND = (
    LABELS.id_of(name) for name in ("road", "sidewalk", "pole", "terrain", "car", "background")
)
CAMERA = CameraModel(Size(640, 480), 500.0, 500.0, 320.0, 240.0)
POSE = CameraPose.mounted(1.5)
TABLE = GridTable(CAMERA, POSE, GridSpec())


def road_below(row: int = 300, above: int = BACKGROUND) -> np.ndarray:
    labels = np.full((480, 640), above, np.uint8)
    labels[row:] = ROAD
    return labels


def grid_of(
    labels: np.ndarray,
    confidence: np.ndarray | int = 255,
    table: GridTable = TABLE,
    ignored: Any = None,
    **settings: Any,
) -> Cells:
    answer = Segmentation(labels, np.broadcast_to(np.uint8(confidence), labels.shape).copy())
    mask = DrivableMasker(DrivableSettings(), LABELS).mask(answer)
    return table.fill(answer, mask, GridRules(GridSettings(**settings), LABELS), ignored)


def cell(cells: Cells, x: float, y: float) -> int:
    return int(cells[int((y + 10) / 0.1), int(x / 0.1)])


def free_along(cells: Cells, y: float = 0.05) -> tuple[float, float]:
    """Where the free cells of a row begin and end, meters."""
    free = np.flatnonzero(cells[int((y + 10) / 0.1)] == 0)
    assert (np.diff(free) == 1).all()
    return round(float(free[0]) * 0.1, 3), round(float(free[-1] + 1) * 0.1, 3)


def test_road_below_row_300_is_free_from_3_1_to_12_5_meters() -> None:
    cells = grid_of(road_below())
    assert cells.shape == (200, 400)
    assert free_along(cells) == (3.1, 12.5)  # 750 / 239 and 750 / 60
    assert cell(cells, 12.55, 0.05) == 100  # the contact
    assert set(np.unique(cells[:, 127:])) == {-1}  # behind it
    assert set(np.unique(cells[:, :31])) == {-1}  # nearer than the image shows


def test_what_the_image_does_not_show_to_the_sides_is_unknown() -> None:
    cells = grid_of(road_below())
    # at 10.05 m the image spans y from -319/500 x 10.05 to +320/500 x 10.05
    assert cell(cells, 10.05, 6.25) == 0
    assert cell(cells, 10.05, 6.55) == -1
    assert cell(cells, 10.05, -6.25) == 0
    assert cell(cells, 10.05, -6.55) == -1


def test_beyond_what_a_pixel_resolves_is_unknown() -> None:
    # a pixel covers x^2 / 750 meters along the ground, five cells of 0.1 m at 19.36 m
    cells = grid_of(road_below(row=241))
    start, end = free_along(cells)
    assert (start, end) == (3.1, 19.3)
    coarse = GridTable(CAMERA, POSE, GridSpec(resolution=0.2))  # 1 m at 27.4 m
    wide = grid_of(road_below(row=241), table=coarse)
    assert round(float(np.flatnonzero(wide[50] == 0)[-1] + 1) * 0.2, 3) == 27.2


def test_the_first_pixel_that_is_not_ground_ends_its_ray() -> None:
    labels = road_below()
    labels[316:400, 300:341] = POLE  # a box on the road; its lowest row 399 stands 750 / 160 = 4.69 m ahead
    cells = grid_of(labels)
    assert free_along(cells) == (3.1, 4.6)
    assert cell(cells, 4.65, 0.05) == 100
    assert set(np.unique(cells[99:101, 47:])) == {-1}  # everything behind, also the road that is seen above the box
    assert free_along(cells, y=2.05)[1] == 12.5  # beside it the road goes on


def test_a_single_pixel_is_an_obstacle() -> None:
    labels = road_below()
    labels[399, 320] = POLE
    cells = grid_of(labels)
    assert cell(cells, 4.65, 0.05) == 100
    assert cell(cells, 8.05, 0.05) == -1


def test_a_single_pixel_is_one_also_where_the_level_view_has_fewer_pixels() -> None:
    """45 degrees down, a row of the image far away covers half of one of the level view."""
    pose = CameraPose.mounted(1.5, pitch=45.0)
    labels = np.zeros((480, 640), np.uint8)
    columns, rows = np.arange(20, 620, 11), 2 + 7 * np.arange(55) % 120
    labels[rows, columns] = POLE
    cells = grid_of(labels, table=GridTable(CAMERA, pose, GridSpec()))
    turn = math.radians(45.0)
    right, down = (columns - 320) / 500, (rows - 240) / 500
    x = 1.5 * (math.cos(turn) - down * math.sin(turn)) / (math.sin(turn) + down * math.cos(turn))
    y = -1.5 * right / (math.sin(turn) + down * math.cos(turn))
    for i, j in zip(np.floor(x / 0.1).astype(int), np.floor((y + 10) / 0.1).astype(int), strict=True):
        assert (cells[j - 1 : j + 2, i - 1 : i + 1] == 100).any()


def test_no_free_cell_touches_a_ray_behind_its_contact() -> None:
    rng = np.random.default_rng(5)
    labels = road_below()
    for _ in range(12):
        column, row = int(rng.integers(0, 630)), int(rng.integers(320, 470))
        labels[row - 30 : row, column : column + int(rng.integers(1, 9))] = POLE
    cells = grid_of(labels)
    blocked = (labels == POLE) | (labels == BACKGROUND)
    ys, xs = np.nonzero(cells == 0)
    for di in (0.0, 0.5, 0.999):  # places within every free cell, projected by hand
        for dj in (0.0, 0.5, 0.999):
            x, y = (xs + di) * 0.1, (ys + dj) * 0.1 - 10.0
            column, row = np.rint(320 - 500 * y / x).astype(int), np.rint(240 + 750 / x).astype(int)
            inside = (column >= 0) & (column < 640) & (row < 480)
            for c, r in zip(column[inside], row[inside], strict=True):
                assert not blocked[r + 1 :, c].any()


def test_ground_that_is_not_drivable_is_occupied_and_hides_nothing() -> None:
    labels = road_below()
    labels[350:380] = SIDEWALK  # 750 / 140 = 5.36 to 750 / 110 = 6.82 m
    cells = grid_of(labels)
    assert cell(cells, 5.05, 0.05) == 0
    assert cell(cells, 6.05, 0.05) == 100
    assert cell(cells, 8.05, 0.05) == 0


def test_classes_can_cost_instead_of_block() -> None:
    labels = road_below()
    labels[350:380] = SIDEWALK
    labels[380:400] = TERRAIN
    cells = grid_of(labels, costs={"sidewalk": 60, "terrain": 80})
    assert cell(cells, 6.05, 0.05) == 60
    assert cell(cells, 5.05, 0.05) == 80  # row 388.5
    assert cell(cells, 4.05, 0.05) == 0
    confidence = np.full((480, 640), 255, np.uint8)
    confidence[350:380] = 100  # sidewalk, but not sure
    assert cell(grid_of(labels, confidence, costs={"sidewalk": 60, "terrain": 80}), 6.05, 0.05) == -1


def test_a_class_that_stands_up_can_cost_too() -> None:
    labels = road_below(above=BACKGROUND)
    labels[350:380] = LABELS.id_of("vegetation")
    assert cell(grid_of(labels), 8.05, 0.05) == -1
    assert cell(grid_of(labels, costs={"vegetation": 90}), 6.05, 0.05) == 90
    assert cell(grid_of(labels, costs={"vegetation": 90}), 8.05, 0.05) == 0


def test_what_is_not_sure_is_unknown_and_hides_nothing() -> None:
    confidence = np.full((480, 640), 255, np.uint8)
    confidence[350:380] = 100  # below 0.5
    cells = grid_of(road_below(), confidence)
    assert cell(cells, 5.05, 0.05) == 0
    assert cell(cells, 6.05, 0.05) == -1
    assert cell(cells, 8.05, 0.05) == 0


def test_an_unsure_obstacle_is_one() -> None:
    labels, confidence = road_below(), np.full((480, 640), 255, np.uint8)
    labels[350:400, 300:341], confidence[350:400, 300:341] = POLE, 10
    assert free_along(grid_of(labels, confidence)) == (3.1, 4.6)


def test_the_share_of_a_cell_that_must_be_drivable() -> None:
    labels, confidence = road_below(), np.full((480, 640), 255, np.uint8)
    confidence[::5] = 0  # of every five rows one is not sure; a cell 3.4 to 4.4 m ahead covers six to four rows
    places = [(x, y) for x in (3.45, 3.65, 3.95, 4.25) for y in (-1.05, 0.05, 0.85)]
    assert {cell(grid_of(labels, confidence, min_share=0.95), *place) for place in places} == {-1}
    assert {cell(grid_of(labels, confidence, min_share=0.6), *place) for place in places} == {0}
    confidence[:, ::2] = 0  # and every second column
    assert {cell(grid_of(labels, confidence, min_share=0.6), *place) for place in places} == {-1}
    assert {cell(grid_of(labels, confidence, min_share=0.2), *place) for place in places} == {0}


def test_the_bonnet_is_not_an_obstacle_and_nothing_is_known_there() -> None:
    labels = road_below()
    labels[440:, :] = CAR
    ignored = np.zeros((480, 640), np.uint8)
    ignored[440:] = 255  # 750 / 200 = 3.75 m
    assert set(np.unique(grid_of(labels)[100, 39:])) == {-1}  # else it hides the road
    assert free_along(grid_of(labels, ignored=ignored)) == (3.8, 12.5)


def test_unlabeled_pixels_end_rays() -> None:
    labels = road_below()
    labels[350:400, 300:341] = 255
    assert free_along(grid_of(labels)) == (3.1, 4.6)


def test_below_a_cars_body_is_not_free() -> None:
    # wheels down to row 390 (5 m), body down to row 377: 5.47 m were the road below it free
    labels = road_below()
    labels[320:378, 240:401] = CAR  # 1.6 m wide
    labels[320:391, 240:261] = labels[320:391, 380:401] = CAR
    cells = grid_of(labels)
    assert free_along(cells)[1] == 4.3  # 5 m to the wheels, and the bumper may be 0.6 m before them
    assert free_along(cells, y=2.25)[1] == 12.5
    flat = road_below()
    flat[320:391, 240:401] = CAR  # no wheels are told apart: the contact is where it is
    assert free_along(grid_of(flat))[1] == 4.9  # row 391 at 4.97 m is the last of the road


def test_two_poles_are_no_car() -> None:
    labels = road_below()
    labels[300:391, 240:250] = labels[300:391, 391:401] = POLE
    assert free_along(grid_of(labels)) == (3.1, 12.5)


@pytest.mark.parametrize("distortion", [Distortion.PLUMB_BOB, Distortion.RATIONAL_POLYNOMIAL, Distortion.EQUIDISTANT])
def test_lens_and_pose_do_not_change_the_ground(distortion: Distortion) -> None:
    """A strip of road 4 m wide that ends 12 m ahead, drawn through a lens from an odd pose, is found again."""
    coefficients = {
        Distortion.PLUMB_BOB: (-0.25, 0.05, 0.001, -0.001, 0.0),
        Distortion.RATIONAL_POLYNOMIAL: (0.3, 0.05, 0.0, 0.0, 0.0, 0.5, 0.1, 0.0),
        Distortion.EQUIDISTANT: (0.01, -0.005, 0.0, 0.0),
    }[distortion]
    camera = CameraModel(Size(800, 600), 420.0, 425.0, 395.0, 310.0, distortion, coefficients)
    pose = CameraPose.mounted(1.6, pitch=8.0, roll=3.0, x=1.2, y=-0.4, yaw=12.0)
    v, u = np.mgrid[:600, :800]
    rays = camera.rays(np.stack([u.reshape(-1), v.reshape(-1)], 1)).astype(np.float64) @ pose.matrix.T
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(rays[:, 2] < 0, -1.6 / rays[:, 2], np.nan)
        x, y = rays[:, 0] * scale + 1.2, rays[:, 1] * scale - 0.4
        road = (x > 0) & (x < 12.0) & (np.abs(y) < 2.0)
    labels = np.where(road, ROAD, SIDEWALK).astype(np.uint8).reshape(600, 800)
    table = GridTable(camera, pose, GridSpec())
    cells = grid_of(labels, table=table)
    xs, ys = GridSpec().centers()
    truly = (np.abs(ys)[:, None] < 1.95) & (xs < 11.95)[None, :]
    seen = table.visible
    assert (cells[seen & truly] == 0).mean() > 0.95
    outside = (np.abs(ys)[:, None] > 2.15) | (xs > 12.25)[None, :]
    assert not (cells[seen & outside] == 0).any()
    assert (cells[seen & outside] == 100).mean() > 0.99


def test_a_turned_pose_reuses_the_level_view_and_answers_the_same() -> None:
    turned = CameraPose.mounted(1.5, pitch=1.0, roll=0.5)
    again = GridTable(CAMERA, turned, GridSpec(), TABLE.level)
    assert again.level is TABLE.level
    fresh = GridTable(CAMERA, turned, GridSpec())
    labels = road_below()
    labels[330:380, 200:260] = POLE
    both = [grid_of(labels, table=table) for table in (again, fresh)]
    assert (both[0] != both[1]).mean() < 0.002  # the views' pixels lie a little differently
    assert GridTable(CAMERA, CameraPose.mounted(1.5, pitch=4.0), GridSpec(), TABLE.level).level is not TABLE.level


def test_a_lens_that_rose_sees_the_same_ground() -> None:
    higher = CameraPose.mounted(1.51)
    table = GridTable(CAMERA, higher, GridSpec(), TABLE.level)
    assert table.level is TABLE.level
    assert free_along(grid_of(road_below(), table=table)) == (3.2, 12.5)  # 755 / 239 = 3.16, 755 / 60 = 12.58


def test_several_cameras_fill_one_grid_and_the_stricter_answer_wins() -> None:
    left = GridTable(CAMERA, CameraPose.mounted(1.5, yaw=45.0), GridSpec(x_min=-10, x_max=10, y_min=-10, y_max=10))
    ahead = GridTable(CAMERA, POSE, left.level.spec)
    blocked = road_below()
    blocked[300:400, 0:100] = POLE
    one, other = grid_of(road_below(), table=left), grid_of(blocked, table=ahead)
    both = merge([one, other])
    assert ((both == 0) <= ((one == 0) | (other == 0))).all()
    overlap = (one == 0) & (other == 100)
    assert overlap.any()
    assert (both[overlap] == 100).all()
    assert (both[(one == 0) & (other == -1)] == 0).all()


def test_a_camera_that_sees_no_ground_knows_nothing() -> None:
    up = GridTable(CAMERA, CameraPose.mounted(1.5, pitch=-60.0), GridSpec())
    assert (grid_of(np.zeros((480, 640), np.uint8), table=up) == -1).all()
    behind = GridTable(CAMERA, CameraPose.mounted(1.5, yaw=180.0), GridSpec())
    assert (grid_of(np.zeros((480, 640), np.uint8), table=behind) == -1).all()


def test_a_grid_has_whole_cells_and_ends_with_the_last() -> None:
    spec = GridSpec(resolution=0.3)  # 40 / 0.3 = 133.3 cells, 20 / 0.3 = 66.7
    assert (spec.width, spec.height, spec.x_max, spec.y_max) == (133, 67, 39.9, 10.1)
    assert spec.centers()[0][0] == pytest.approx(0.15)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"resolution": 0.0}, "resolution 0 is not accepted"),
        ({"x_max": math.inf}, "x_max inf is not accepted: the grid has an end"),
        ({"x_min": 5.0, "x_max": 5.0}, "x_max 5 is not accepted: it must be above x_min 5"),
        ({"y_min": 3.0, "y_max": -3.0}, "y_max -3 is not accepted"),
        ({"resolution": 0.001}, "at most 4000000"),
        ({"min_share": 0.0}, "min_share 0 is not above 0"),
        ({"costs": {"sidewalk": 100}}, "costs sidewalk: 100 is not in 1 to 99"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        GridSettings(**values)


def test_a_cost_for_a_class_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"grid.costs: label set 'driving' has no class 'pavement'; known: road"):
        GridRules(GridSettings(costs={"pavement": 50}), LABELS)


def test_ends_and_cells_are_what_a_plain_count_of_the_pixels_says() -> None:
    """The fast sums and maxima against loops, on noise: every number of samples seen, every row of a block."""
    random = np.random.default_rng(3)
    camera = CameraModel(Size(96, 72), 70.0, 70.0, 48.0, 20.0, Distortion.PLUMB_BOB, (-0.2, 0.03, 0.0, 0.0, 0.0))
    spec = GridSpec(0.2, 0.0, 12.0, -4.0, 4.0)
    table = GridTable(camera, CameraPose.mounted(1.2, pitch=3.0), spec)
    labels = random.choice(np.array([ROAD, ROAD, ROAD, SIDEWALK], np.uint8), (72, 96)).repeat(2, 0)[:72]
    labels[random.random(labels.shape) < 0.01] = POLE
    answer = Segmentation(labels, random.integers(100, 256, labels.shape).astype(np.uint8))
    mask = DrivableMasker(DrivableSettings(), LABELS).mask(answer)
    rules = GridRules(GridSettings(0.2, 0.0, 12.0, -4.0, 4.0, min_share=0.5), LABELS)
    ends = table.look(answer, mask, rules)
    view, sampled, source = table.level, table.level.sampled, table.source
    flat = np.append(labels.reshape(-1), 255)  # 255: not in the image
    shown = np.full((view.size.height, view.size.width), 255, np.uint8)
    shown[: len(source)] = flat[source]
    assert table.step == (1, 1)  # nothing is grown
    for column in range(view.size.width):
        poles = [row for row in range(view.size.height) if shown[row, column] == POLE]
        assert ends[column] == pytest.approx(max(poles) + 1 - 0.001 if poles else -1e9)
    passable = np.append(mask.reshape(-1) != 0, False)
    pixel = np.full(view.size.height * view.size.width + 1, 96 * 72)
    pixel[: source.size] = source.reshape(-1)
    states, seen_counts, k = table.states(0.5), set(), 0
    for pixels in sampled.samples:
        for samples in pixels.T.tolist():
            seen = [pixel[s] for s in samples if pixel[s] != 96 * 72]
            free = sum(bool(passable[p]) for p in seen)
            blocked = sum(labels.reshape(-1)[p] == SIDEWALK for p in seen)
            occupied = -1 if not blocked or 2 * blocked < len(seen) else 100
            if len(seen) * 2 >= len(samples):
                assert states[k] == (0 if free >= max(1.0, 0.5 * len(seen)) else occupied)
                seen_counts.add(len(seen))
            k += 1
    assert k == len(sampled.cells)
    assert len(seen_counts) > 3  # whole cells of both kinds, and cells that are seen in part


SPEC = GridSpec()
X, Y = SPEC.centers()


def camera_fan(half_angle: float = 40.0, near: float = 3.0, far: float = 30.0) -> np.ndarray:
    """What a camera sees: a sector ahead."""
    angle, reach = np.arctan2(Y[:, None], X[None, :]), np.hypot(Y[:, None], X[None, :])
    return (np.abs(angle) < math.radians(half_angle)) & (reach > near) & (reach < far)


VISIBLE = camera_fan()
FREE_SPACE = FreeSpace(SPEC, VISIBLE, corridor_width=2.0)


def all_free() -> np.ndarray:
    return np.where(VISIBLE, 0, -1).astype(np.int8)


def put(cells: np.ndarray, x: float, y: float, value: int, size: int = 1) -> np.ndarray:
    i, j = int(x / 0.1), int((y + 10) / 0.1)
    cells[j : j + size, i : i + size] = value
    return cells


def test_the_distance_to_an_obstacle_in_the_corridor() -> None:
    assert FREE_SPACE.distance(put(all_free(), 12.05, 0.05, 100)) == 12.0
    assert FREE_SPACE.distance(put(all_free(), 12.05, 0.95, 100)) == 12.0  # at its border
    assert FREE_SPACE.distance(put(all_free(), 12.05, 1.15, 100)) == FREE_SPACE.distance(all_free())  # beside it


def test_what_is_not_known_to_be_free_ends_the_corridor() -> None:
    assert FREE_SPACE.distance(put(all_free(), 8.05, 0.05, -1)) == 8.0
    assert FREE_SPACE.distance(put(all_free(), 8.05, 0.05, 60)) == 8.0  # a cost is not drivable
    assert FREE_SPACE.distance(all_free()) == 30.0  # to the end of sight


def test_what_fills_the_image_down_to_its_edge_may_begin_anywhere_nearer() -> None:
    cells = all_free()
    cells[VISIBLE & (X < 4.0)[None, :]] = 100
    assert math.isnan(FREE_SPACE.distance(cells))
    cells[VISIBLE & (X < 3.4)[None, :]] = 0
    assert FREE_SPACE.distance(cells) == 3.4


def test_an_obstacle_where_the_corridor_is_not_yet_seen_whole() -> None:
    narrow = FreeSpace(SPEC, camera_fan(half_angle=10.0), corridor_width=2.0)
    cells = np.where(camera_fan(half_angle=10.0), 0, -1).astype(np.int8)
    assert narrow.distance(put(cells.copy(), 4.05, 0.05, 100)) == 4.0
    assert narrow.distance(cells) > 20.0


def test_nothing_known_is_nan() -> None:
    assert math.isnan(FREE_SPACE.distance(SPEC.unknown()))
    blind = FreeSpace(SPEC, np.zeros_like(VISIBLE), corridor_width=2.0)
    assert math.isnan(blind.distance(all_free()))
    behind = GridSpec(x_min=-20, x_max=-5)
    assert math.isnan(FreeSpace(behind, np.ones((200, 150), bool), 2.0).distance(np.zeros((200, 150), np.int8)))


def filled(outline: np.ndarray) -> np.ndarray:
    """Share of each cell that the outline covers."""
    picture = np.zeros((SPEC.height * 5, SPEC.width * 5), np.uint8)
    corners = (outline - (SPEC.x_min, SPEC.y_min)) / SPEC.resolution * 5
    cv2.fillPoly(picture, [np.rint(corners * 16).astype(np.int32)], 1, shift=4)
    return picture.reshape(SPEC.height, 5, SPEC.width, 5).mean(axis=(1, 3))


def test_the_outline_of_everything() -> None:
    outline = FREE_SPACE.outline(all_free())
    assert 4 <= len(outline) <= MAX_CORNERS
    covered = filled(outline) > 0.5
    assert covered.sum() > 0.9 * VISIBLE.sum()
    assert not (covered & ~VISIBLE).any()


def test_the_outline_never_holds_a_cell_that_is_not_free() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        cells = all_free()
        for _ in range(8):
            put(cells, rng.uniform(4, 28), rng.uniform(-8, 8), int(rng.choice([-1, 100, 60])), int(rng.integers(1, 9)))
        covered = filled(FREE_SPACE.outline(cells)) > 0.5
        assert not (covered & (cells != 0)).any()


def test_only_what_is_connected_to_the_car() -> None:
    cells = all_free()
    cells[:, int(10 / 0.1) : int(10.5 / 0.1)] = -1  # unknown from side to side, 10 m ahead
    outline = FREE_SPACE.outline(cells)
    assert outline[:, 0].max() <= 10.0 + 1e-6


def test_no_free_area_has_no_outline() -> None:
    assert FREE_SPACE.outline(SPEC.unknown()).shape == (0, 2)
    blocked = np.where(VISIBLE, 100, -1).astype(np.int8)
    assert FREE_SPACE.outline(blocked).shape == (0, 2)
    assert FreeSpace(SPEC, np.zeros_like(VISIBLE), 2.0).outline(all_free()).shape == (0, 2)
