"""What a run writes down about its validation."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest

from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.types import Segmentation
from seg_perception.evaluation import Evaluation
from seg_perception.evaluation.counts import PixelCounts
from seg_perception.evaluation.files import read_run
from seg_perception.training.run_folder import RunFolder
from seg_perception.training.settings import TrainSettings

ROAD, GRAVEL, SKY, CAR = range(4)
CLASSES = LabelSet(
    "four",
    (
        LabelClass(ROAD, "road", (1, 0, 0), drivable=True),
        LabelClass(GRAVEL, "gravel", (2, 0, 0), drivable=True),
        LabelClass(SKY, "sky", (3, 0, 0)),
        LabelClass(CAR, "car", (4, 0, 0)),
    ),
)


def test_a_class_without_truth_has_no_iou(
    tiny: Callable[..., TrainSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.array([[ROAD, ROAD, ROAD, SKY]], np.uint8)
    answer = np.array([[ROAD, ROAD, GRAVEL, ROAD]], np.uint8)
    counts = PixelCounts(len(CLASSES))
    counts.add(truth, Segmentation(answer, np.full_like(answer, 200)))
    evaluation = Evaluation("mine", CLASSES, counts, ConfusionMatrix(len(CLASSES)), ())

    folder = RunFolder(tiny(), CLASSES, history=None, writes=True)
    folder.open_logs(first_step=0)
    folder.log_step(7, loss=1.0, rate=0.1, per_second=1.0)
    folder.log_validation(7, [evaluation])
    folder.close()

    path = tiny().run_folder / "validation.csv"
    with path.open(newline="", encoding="utf-8") as file:
        header, row = csv.reader(file)
    assert header == ["step", "dataset", "mean_iou", "pixel_accuracy", "road", "gravel", "sky", "car"]
    # road: 2 right of 3 in the truth, 1 sky pixel called so: 2/4. Sky is there and never found: 0.
    # Gravel was answered once and car never, but neither is in the truth. The mean is over road and sky.
    assert row == ["7", "mine", "0.25", "0.5", "0.5", "nan", "0.0", "nan"]
    assert "step 7: mine: mean IoU 25.00, road 50.00, gravel not in the truth" in capsys.readouterr().out

    point = read_run(tiny().run_folder).validation["mine"][0]  # and `report` reads it
    assert math.isnan(point.iou["gravel"])
    assert point.iou["sky"] == 0.0


def test_a_full_disk_is_told_with_its_place(tiny: Callable[..., TrainSettings]) -> None:
    folder = RunFolder(tiny(), CLASSES, history=None, writes=True)
    with closing(folder):
        folder.open_logs(first_step=0)
        log = tiny().run_folder / "steps.csv"
        log.unlink()
        log.symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"cannot write: No space left on device: .*runs/tiny"):
            folder.log_step(7, loss=1.0, rate=0.1, per_second=1.0)
