"""Each step of the drivable mask on masks small enough to draw."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seg_perception.core.drivable import (
    DrivableMasker,
    DrivableSettings,
    count_frames_in_a_row,
    drivable_share,
    ego_region,
    keep_confident,
    keep_connected,
    mask_of_classes,
    polygons_mask,
)
from seg_perception.core.errors import SettingsError
from seg_perception.core.label_set import LabelClass, LabelSet, load_label_set
from seg_perception.core.settings import from_mapping
from seg_perception.core.types import UNLABELED, Segmentation, Size

DRIVING = load_label_set("driving")
ROAD, SIDEWALK, CAR = DRIVING.id_of("road"), DRIVING.id_of("sidewalk"), DRIVING.id_of("car")
SECOND = 1_000_000_000


def drawn(picture: str) -> NDArray[np.uint8]:
    """A mask from text: # is 255, anything else 0."""
    rows = [line.strip() for line in picture.strip().splitlines()]
    return np.array([[255 if c == "#" else 0 for c in row] for row in rows], np.uint8)


def seen(labels: object, confidence: int = 255) -> Segmentation:
    array = np.asarray(labels, np.uint8)
    return Segmentation(array, np.full(array.shape, confidence, np.uint8))


def road_where(mask: NDArray[np.uint8]) -> Segmentation:
    return seen(np.where(mask, ROAD, SIDEWALK))


def test_the_default_is_the_answer_where_it_is_sure() -> None:
    labels = [[ROAD, SIDEWALK, CAR], [UNLABELED, ROAD, ROAD]]
    for settings, confidence, road in (
        (DrivableSettings(), 128, 255),
        (DrivableSettings(), 127, 0),  # less than 0.5
        (DrivableSettings(min_confidence=0.0), 0, 255),
    ):
        mask = DrivableMasker(settings, DRIVING).mask(seen(labels, confidence=confidence))
        assert mask.tolist() == [[road, 0, 0], [0, road, road]]
    assert mask.dtype == np.uint8
    assert drivable_share(mask) == pytest.approx(3 / 6)  # the last of them


def test_named_classes_replace_those_of_the_card() -> None:
    settings = DrivableSettings(classes=("sidewalk", "car"))
    mask = DrivableMasker(settings, DRIVING).mask(seen([[ROAD, SIDEWALK, CAR]]))
    assert mask.tolist() == [[0, 255, 255]]


def test_mask_of_classes_on_every_id() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for one in (0, 7, 255):
        assert np.flatnonzero(mask_of_classes(ids, (one,)) == 255).tolist() == [one]
        assert np.count_nonzero(mask_of_classes(ids, (one,))) == 1
    mask = mask_of_classes(ids, (0, 7))
    assert np.flatnonzero(mask).tolist() == [0, 7]


@pytest.mark.parametrize(
    "minimum, kept",
    [
        (0.0, [0, 127, 128, 254, 255]),
        (0.5, [128, 254, 255]),  # 0.5 * 255 = 127.5: 127 is less, 128 is not
        (128 / 255, [128, 254, 255]),  # a byte's own value is enough for it
        (1.0, [255]),
    ],
)
def test_keep_confident_at_the_limit(minimum: float, kept: list[int]) -> None:
    confidence = np.array([[0, 127, 128, 254, 255]], np.uint8)
    mask = keep_confident(np.full((1, 5), 255, np.uint8), confidence, minimum)
    assert confidence[mask == 255].tolist() == kept


def test_keep_confident_only_takes_away() -> None:
    assert keep_confident(np.zeros((1, 1), np.uint8), np.full((1, 1), 255, np.uint8), 0.5).tolist() == [[0]]


def test_polygon_covers_its_corners() -> None:
    # a 5 x 5 image: relative 0.5 is the middle column (2 of 0..4), 1.0 the last
    mask = polygons_mask(((0.5, 0.5, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0),), Size(5, 5))
    expected = drawn(
        """
        .....
        .....
        ..###
        ..###
        ..###
        """
    )
    np.testing.assert_array_equal(mask, expected)


def test_two_polygons_are_joined() -> None:
    left, right = (0.0, 0.0, 0.25, 0.0, 0.25, 1.0, 0.0, 1.0), (1.0, 0.0, 1.0, 1.0, 0.75, 1.0, 0.75, 0.0)
    np.testing.assert_array_equal(polygons_mask((left, right), Size(5, 1)), drawn("##.##"))


def test_ignored_area_is_never_drivable(tmp_path: Path) -> None:
    bonnet = tmp_path / "bonnet.png"
    # 2 x 1 picture: left half black, right half white; stretched to 4 x 2 its right half is ignored
    cv2.imwrite(str(bonnet), np.array([[0, 255]], np.uint8))
    top = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0)
    masker = DrivableMasker(DrivableSettings(ignore_mask=bonnet, ignore_polygons=(top,)), DRIVING)
    for _ in range(2):
        assert masker.mask(road_where(drawn("####\n####"))).tolist() == drawn("....\n##..").tolist()
    # another size: the same shares of it
    answer = masker.mask(road_where(drawn("########\n########\n########"))).tolist()
    assert answer == drawn("........\n####....\n####....").tolist()


def test_ego_region_is_the_lowest_free_band_of_the_middle_third() -> None:
    # 40 rows: 5 % are 2 rows; 9 columns: the middle third is columns 3, 4, 5
    free = np.zeros((40, 9), np.uint8)
    expected = np.zeros_like(free)
    expected[38:, 3:6] = 255
    np.testing.assert_array_equal(ego_region(free), expected)


def test_ego_region_lies_above_the_bonnet() -> None:
    ignored = np.zeros((40, 9), np.uint8)
    ignored[30:, 4] = 255  # the bonnet reaches up to row 30 in column 4
    ignored[:, 5] = 255  # column 5 is ignored from top to bottom
    expected = np.zeros_like(ignored)
    expected[38:, 3] = 255
    expected[28:30, 4] = 255
    np.testing.assert_array_equal(ego_region(ignored), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 1), (2, 2), (3, 4)])
def test_ego_region_is_never_empty_by_smallness(size: tuple[int, int]) -> None:
    assert ego_region(np.zeros(size, np.uint8)).any()


def test_islands_go() -> None:
    mask = drawn(
        """
        ##....###
        ##..#..##
        ...##...#
        ..####..#
        .######..
        """
    )
    ego = drawn(
        """
        .........
        .........
        .........
        .........
        ...###...
        """
    )
    # the lane touches the ego region; the patch top left and the one on the right only touch nothing
    expected = drawn(
        """
        .........
        ....#....
        ...##....
        ..####...
        .######..
        """
    )
    np.testing.assert_array_equal(keep_connected(mask, ego), expected)


def test_corners_do_not_connect() -> None:
    mask = drawn("#..\n.#.\n.#.")
    ego = drawn("...\n...\n.#.")
    assert keep_connected(mask, ego).tolist() == drawn("...\n.#.\n.#.").tolist()


def test_two_lanes_into_the_ego_region_both_stay() -> None:
    mask = drawn("#.#\n#.#")
    assert keep_connected(mask, drawn("...\n###")).tolist() == mask.tolist()


def test_nothing_in_the_ego_region_means_nothing_drivable() -> None:
    # a lorry right ahead: what lies beyond it cannot be reached
    mask = drawn("###\n###\n...")
    assert not keep_connected(mask, drawn("...\n...\n###")).any()
    assert not keep_connected(mask, drawn("...\n...\n...")).any()
    assert not keep_connected(drawn("...\n...\n..."), drawn("...\n...\n###")).any()


def test_a_background_that_fills_the_ego_region_is_not_kept() -> None:
    assert not keep_connected(drawn("##.\n...\n..."), drawn("...\n.#.\n.#.")).any()


def grown_from(mask: NDArray[np.uint8], ego: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The slow, obvious way: grow the pixels of the ego region by one step until nothing changes."""
    allowed = mask != 0
    reached: NDArray[np.bool_] = allowed & (ego != 0)
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= allowed
        if np.array_equal(grown, reached):
            return reached
        reached = grown


@pytest.mark.parametrize("size", [(12, 15), (200, 150)])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.6, 0.8])
def test_noise_is_connected_as_the_slow_way_has_it(size: tuple[int, int], density: float) -> None:
    """Small noise is flooded, large noise has so many components that they are labeled."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        mask = np.where(rng.random(size) < density, 255, 0).astype(np.uint8)
        ego = ego_region(np.zeros_like(mask))
        np.testing.assert_array_equal(keep_connected(mask, ego) != 0, grown_from(mask, ego))


def test_an_ego_region_in_pieces() -> None:
    # two free columns left and right of an ignored one; only pixels inside the region are seeds
    mask, ego = drawn("#.#.#\n#.#.#"), drawn(".....\n#.#..")
    np.testing.assert_array_equal(keep_connected(mask, ego), drawn("#.#..\n#.#.."))


def test_counts_rise_and_fall_to_zero_at_once() -> None:
    counts = np.array([[0, 3, 254, 255, 9]], np.uint8)
    mask = np.array([[255, 255, 255, 255, 0]], np.uint8)
    assert count_frames_in_a_row(counts, mask).tolist() == [[1, 4, 255, 255, 0]]


def test_area_appears_after_three_frames_and_goes_at_once() -> None:
    masker = DrivableMasker(DrivableSettings(appear_frames=3), DRIVING)
    frames = "1101111011"
    #         two frames are too few; the 4th to 6th are three in a row, so the 6th and 7th show; then it starts anew
    shown = "0000011000"
    answers = [masker.mask(road_where(drawn("#" if c == "1" else "."))) for c in frames]
    assert "".join("1" if answer[0, 0] else "0" for answer in answers) == shown


@pytest.mark.parametrize(
    "stamps_s, shown",
    [
        ((0.0, 0.1, 0.2), "011"),  # regular
        ((9.0, 9.1, 9.05), "010"),  # time runs backwards: a bag starts anew
        ((9.0, 9.1, 9.1), "011"),  # time stands still: what was sure stays sure
        ((9.0, 9.0, 9.1), "001"),  # but the same frame twice is no evidence
        ((9.0, 9.1, 9.7), "010"),  # 0.6 s without a frame is more than max_gap_s = 0.5
        ((9.0, 9.5, 10.0), "011"),  # exactly max_gap_s is not more
        ((0.0, 0.0, 0.0), "011"),  # no stamps: time is not known, frames are counted
        ((9.0, 0.0, 9.1), "011"),  # one without a stamp between
    ],
)
def test_the_count_starts_anew_after_a_jump_in_time(stamps_s: tuple[float, ...], shown: str) -> None:
    masker = DrivableMasker(DrivableSettings(appear_frames=2), DRIVING)
    answers = [masker.mask(road_where(drawn("#")), round(stamp * SECOND)) for stamp in stamps_s]
    assert "".join("1" if answer[0, 0] else "0" for answer in answers) == shown


@pytest.mark.parametrize(
    "step_s, reason",
    [
        (0.0, "all have the same stamp"),
        (1.0, "the last came 1 s apart, longer than max_gap_s 0.5"),
        (-0.1, "each has an earlier stamp than the one before"),
    ],
)
def test_times_that_keep_the_mask_empty_are_said_once(
    step_s: float, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    masker = DrivableMasker(DrivableSettings(appear_frames=2), DRIVING)
    for index in range(6):
        assert not masker.mask(road_where(drawn("#")), round((9.0 + index * step_s) * SECOND)).any()
        assert (masker.stalled is not None) == (index >= 3)  # the first frame has none before it
    assert masker.stalled is not None
    assert masker.stalled.startswith("nothing appears in the drivable mask: 5 frames in a row did not count for appear")
    assert masker.stalled.endswith(f"2, because {reason}")
    assert len(caplog.records) == 1
    last = round((9.0 + 5 * step_s) * SECOND)
    masker.mask(road_where(drawn("#")), last + SECOND // 10)
    assert masker.stalled is None
    assert masker.mask(road_where(drawn("#")), last + SECOND // 5).all()


def test_times_do_not_matter_without_the_filter() -> None:
    masker = DrivableMasker(DrivableSettings(), DRIVING)
    for index in range(5):
        assert masker.mask(road_where(drawn("#")), index * 10 * SECOND).all()
    assert masker.stalled is None


def test_the_count_starts_anew_after_reset_and_after_another_size() -> None:
    masker = DrivableMasker(DrivableSettings(appear_frames=2), DRIVING)
    one, two = road_where(drawn("#")), road_where(drawn("##"))
    assert [int(masker.mask(frame)[0, 0]) for frame in (one, one, two, two, one)] == [0, 255, 0, 255, 0]
    masker.mask(one)
    masker.reset()
    assert not masker.mask(one).any()


def test_the_temporal_filter_never_adds_faster_than_it_removes() -> None:
    """Whatever comes, a drivable pixel was drivable and connected in each of the last K frames."""
    rng = np.random.default_rng(5)
    k = 3
    masker = DrivableMasker(DrivableSettings(appear_frames=k, connected_to_ego=True), DRIVING)
    single = DrivableMasker(DrivableSettings(connected_to_ego=True), DRIVING)
    base = np.where(rng.random((20, 24)) < 0.8, 255, 0).astype(np.uint8)
    history = []
    appeared = 0
    for _ in range(40):
        frame = road_where(np.where(rng.random(base.shape) < 0.05, 255 - base, base).astype(np.uint8))
        history.append(single.mask(frame))
        answer = masker.mask(frame)
        allowed = np.bitwise_and.reduce(history[-k:]) if len(history) >= k else np.zeros_like(answer)
        assert not (answer & ~allowed).any()
        # and what is left is still connected to the car
        np.testing.assert_array_equal(keep_connected(answer, ego_region(np.zeros_like(answer))), answer)
        appeared += int(answer.any())
    assert appeared > 20  # the rule is not met by showing nothing


def test_all_steps_together() -> None:
    # 20 rows x 9 columns: the bonnet covers the lowest 4 rows; 5 % of 20 rows is 1, so the ego region is row 15,
    # columns 3 to 5. The lane is column 4; an island is in column 8; one lane pixel is unsure and cuts it at row 6.
    labels = np.full((20, 9), SIDEWALK, np.uint8)
    labels[2:, 4] = ROAD
    labels[3:9, 8] = ROAD
    confidence = np.full((20, 9), 200, np.uint8)
    confidence[6, 4] = 100
    bonnet = (0.0, 16 / 19, 1.0, 16 / 19, 1.0, 1.0, 0.0, 1.0)
    settings = DrivableSettings(min_confidence=0.5, ignore_polygons=(bonnet,), connected_to_ego=True, appear_frames=2)
    masker = DrivableMasker(settings, DRIVING)
    assert not masker.mask(Segmentation(labels, confidence), 0).any()
    mask = masker.mask(Segmentation(labels, confidence), SECOND // 10)
    expected = np.zeros((20, 9), np.uint8)
    expected[7:16, 4] = 255
    np.testing.assert_array_equal(mask, expected)
    assert drivable_share(mask) == pytest.approx(9 / 180)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 4), (2, 2)])
def test_tiny_images_pass_all_steps(shape: tuple[int, int]) -> None:
    """OpenCV takes some arrays this small for scalars."""
    corner = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    settings = DrivableSettings(min_confidence=0.5, connected_to_ego=True, appear_frames=2, ignore_polygons=(corner,))
    masker = DrivableMasker(settings, DRIVING)
    for _ in range(3):
        assert masker.mask(seen(np.full(shape, ROAD, np.uint8))).shape == shape


def test_the_segmentation_is_left_alone() -> None:
    segmentation = road_where(drawn("##\n##"))
    before = segmentation.labels.copy()
    segmentation.labels.flags.writeable = segmentation.confidence.flags.writeable = False
    settings = DrivableSettings(min_confidence=0.1, connected_to_ego=True, appear_frames=1)
    DrivableMasker(settings, DRIVING).mask(segmentation)[:] = 7
    np.testing.assert_array_equal(segmentation.labels, before)


def test_successive_masks_do_not_share_memory() -> None:
    masker = DrivableMasker(DrivableSettings(appear_frames=1, connected_to_ego=True), DRIVING)
    first, second = (masker.mask(road_where(drawn("###\n###\n###"))) for _ in range(2))
    assert not np.shares_memory(first, second)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        DrivableSettings(
            classes=(), min_confidence=1.5, ignore_polygons=((0.0, 0.0, 1.0, 2.0),), appear_frames=0, max_gap_s=0.0
        )
    faults = str(caught.value).splitlines()
    assert len(faults) == 6
    expected = ("classes is empty", "1.5 is not", "has 4 numbers", "[2.0] not in", "0 is not in 1 to", "0.0 is not")
    for fault, words in zip(faults, expected, strict=True):
        assert words in fault


@pytest.mark.parametrize("minimum", [float("nan"), -0.1, float("inf")])
def test_confidence_that_is_no_share(minimum: float) -> None:
    with pytest.raises(SettingsError, match=r"min_confidence .* is not in 0 to 1"):
        DrivableSettings(min_confidence=minimum)


def test_unknown_classes_name_the_known() -> None:
    with pytest.raises(SettingsError, match=r"no class 'raod', 'pavement'; known: road, sidewalk"):
        DrivableMasker(DrivableSettings(classes=("raod", "pavement", "road")), DRIVING)


def test_a_label_set_without_drivable_classes_needs_names() -> None:
    label_set = LabelSet("sky only", (LabelClass(0, "sky", (0, 0, 255)),))
    with pytest.raises(SettingsError, match=r"'sky only' marks no class as drivable.*known: sky"):
        DrivableMasker(DrivableSettings(), label_set)


def test_an_ignore_mask_must_be_a_gray_png(tmp_path: Path) -> None:
    colored = tmp_path / "colored.png"
    cv2.imwrite(str(colored), np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(SettingsError, match=r"ignore_mask .*colored.png.*8-bit gray PNG"):
        DrivableMasker(DrivableSettings(ignore_mask=colored), DRIVING)
    with pytest.raises(FileNotFoundError):
        DrivableMasker(DrivableSettings(ignore_mask=tmp_path / "absent.png"), DRIVING)


def test_settings_come_from_a_mapping() -> None:
    settings = from_mapping(
        DrivableSettings,
        {
            "classes": ["road"],
            "min_confidence": 0.4,
            "ignore_polygons": [[0, 0.9, 1, 0.9, 0.5, 1]],
            "ignore_mask": "bonnet.png",
            "connected_to_ego": True,
            "appear_frames": 3,
        },
        "test",
    )
    assert settings == DrivableSettings(
        ("road",), 0.4, ((0.0, 0.9, 1.0, 0.9, 0.5, 1.0),), Path("bonnet.png"), connected_to_ego=True, appear_frames=3
    )
