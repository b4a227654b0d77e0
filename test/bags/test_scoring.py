from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bag_helpers import START, STEP, write_bag

from seg_perception.bags import messages
from seg_perception.bags.reader import BagReader
from seg_perception.bags.scoring import score_bag
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import InputError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.metrics import drivable_iou, score_table

DRIVING = load_label_set("driving")


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


# 0 road, 1 sidewalk, 7 sky, 255 unlabeled
TRUTHS = [ids([0, 0, 0, 1], [7, 7, 255, 1]), ids([0, 0, 1, 1], [7, 7, 7, 7])]
LABELS = [ids([0, 0, 1, 1], [7, 7, 0, 7]), ids([0, 0, 0, 1], [7, 7, 7, 0])]


def test_the_score_of_a_tiny_bag_is_as_computed_by_hand(tmp_path: Path) -> None:
    with BagReader(write_bag(tmp_path / "a.mcap", [], TRUTHS, LABELS)) as bag:
        score = score_bag(bag, "/labels", "/truth", DRIVING)
    scores = score.matrix.scores()
    assert (score.matched, score.labels_only, score.truth_only) == (2, 0, 0)
    # road: both say road at 2 + 2 pixels; truth has 3 + 2, labels have 2 + 4 (the one on 255 is not counted)
    assert scores.iou[0] == pytest.approx(4 / (5 + 6 - 4))
    # sidewalk: 1 + 1 hits; truth 2 + 2; labels 2 + 1
    assert scores.iou[1] == pytest.approx(2 / (4 + 3 - 2))
    # sky: 2 + 3 hits; truth 2 + 4; labels 3 + 3
    assert scores.iou[7] == pytest.approx(5 / (6 + 6 - 5))
    assert scores.mean_iou == pytest.approx((4 / 7 + 2 / 5 + 5 / 7) / 3)
    assert scores.pixel_accuracy == pytest.approx((4 + 2 + 5) / 15)  # 16 pixels, one unlabeled
    assert drivable_iou(score.matrix.counts, DRIVING) == pytest.approx(4 / 7)  # road is the drivable class
    table = score_table(score.matrix.counts, DRIVING)
    assert "road *             57.14 %           33.33 %" in table  # 5 of 15 pixels are road
    assert "mean IoU           56.19 %   over the 3 classes in the truth" in table


def test_frames_are_matched_by_their_stamps_not_by_their_order(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        for name in ("/labels", "/truth"):
            bag.add_topic(name, messages.IMAGE)
        for stamp, truth in ((START, TRUTHS[0]), (START + STEP, TRUTHS[1]), (START + 2 * STEP, TRUTHS[1])):
            bag.write("/truth", stamp, messages.image(truth, messages.header(stamp, "")))
        for stamp, labels in ((START + STEP, LABELS[1]), (START, LABELS[0]), (START + 9 * STEP, LABELS[0])):
            bag.write("/labels", START + 10 * STEP, messages.image(labels, messages.header(stamp, "")))
    with BagReader(tmp_path / "a.mcap") as bag:
        score = score_bag(bag, "/labels", "/truth", DRIVING)
    assert (score.matched, score.labels_only, score.truth_only) == (2, 1, 1)
    assert score.matrix.scores().iou[0] == pytest.approx(4 / 7)


def test_a_png_topic_can_be_scored(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.add_topic("/labels", messages.COMPRESSED_IMAGE)
        bag.add_topic("/truth", messages.IMAGE)
        header = messages.header(START, "")
        bag.write("/labels", START, messages.compressed_png(LABELS[0], header))
        bag.write("/truth", START, messages.image(TRUTHS[0], header))
    with BagReader(tmp_path / "a.mcap") as bag:
        assert score_bag(bag, "/labels", "/truth", DRIVING).matched == 1


def test_faults_name_the_bag_and_the_stamp(tmp_path: Path) -> None:
    with BagReader(write_bag(tmp_path / "size.mcap", [], TRUTHS, [ids([0, 0])])) as bag:
        with pytest.raises(InputError, match=rf"size\.mcap: frame with the stamp {START} ns: truth .*differ"):
            score_bag(bag, "/labels", "/truth", DRIVING)
        with pytest.raises(InputError, match="cannot be scored against itself"):
            score_bag(bag, "/truth", "/truth", DRIVING)
        with pytest.raises(InputError, match="no topic '/nothing'"):
            score_bag(bag, "/nothing", "/truth", DRIVING)
    with BagReader(write_bag(tmp_path / "id.mcap", [], TRUTHS, [ids([0, 0, 0, 12], [0] * 4)])) as bag:  # noqa: SIM117
        with pytest.raises(InputError, match=r"label values \[12\] are not classes 0 to 9"):
            score_bag(bag, "/labels", "/truth", DRIVING)
    with BagReader(write_bag(tmp_path / "twice.mcap", [], TRUTHS, LABELS, step=0)) as bag:  # noqa: SIM117
        with pytest.raises(InputError, match=rf"two messages with the stamp {START} ns"):
            score_bag(bag, "/labels", "/truth", DRIVING)


def test_bags_of_different_drives_are_refused(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        for name, stamp, picture in (("/labels", START, LABELS[0]), ("/truth", START + 1, TRUTHS[0])):
            bag.add_topic(name, messages.IMAGE)
            bag.write(name, stamp, messages.image(picture, messages.header(stamp, "")))
    with BagReader(tmp_path / "a.mcap") as bag, pytest.raises(InputError, match="none of 1 messages on /labels"):
        score_bag(bag, "/labels", "/truth", DRIVING)
