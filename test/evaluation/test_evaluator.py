"""A whole evaluation against numbers worked out by hand, and its file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from seg_perception.core.errors import DatasetError, InputError, SettingsError
from seg_perception.evaluation import EvaluationOptions, evaluate
from seg_perception.evaluation.files import (
    EvaluationFile,
    Example,
    best_and_worst,
    comparison,
    read_evaluations,
    write_evaluations,
)

ROAD, SKY, CAR, NONE = 0, 7, 8, 255


@pytest.fixture
def dataset(echo_dataset, rows):
    """Image a: all right. Image b: a row of sky taken for road, and a row without truth."""
    return echo_dataset(
        {
            "a": (rows(SKY, SKY, ROAD, ROAD), rows(SKY, SKY, ROAD, ROAD), rows(255, 255, 204, 204)),
            "b": (rows(SKY, SKY, ROAD, NONE), rows(SKY, ROAD, ROAD, CAR), rows(255, 102, 255, 0)),
        }
    )


def test_scores_by_hand(dataset, echo_segmenter) -> None:
    evaluation = evaluate(dataset, echo_segmenter(), options=EvaluationOptions(min_confidence=0.0, band=1))
    # 7 labeled rows of 8 pixels. Sky: 4 rows, 3 answered; road: 3 rows answered of 3, one more wrongly.
    assert evaluation.scores.pixels == 56
    assert evaluation.scores.iou[SKY] == pytest.approx(3 / 4)
    assert evaluation.scores.iou[ROAD] == pytest.approx(3 / 4)
    assert math.isnan(evaluation.scores.iou[CAR])  # answered only where there is no truth
    assert evaluation.scores.mean_iou == pytest.approx(3 / 4)
    assert evaluation.scores.pixel_accuracy == pytest.approx(6 / 7)
    # The band: rows 1 and 2 of both images (sky beside road), all right in a; in b row 1 is wrong.
    assert evaluation.boundary.pixels == 32
    assert evaluation.boundary.iou[ROAD] == pytest.approx(2 / 3)
    assert evaluation.boundary.iou[SKY] == pytest.approx(1 / 2)
    drivable = evaluation.drivable
    assert drivable is not None
    assert drivable.f1 == pytest.approx(6 / 7)  # 3 rows hit, 1 false: 2 * 3 / (2 * 3 + 1)
    assert drivable.max_f == 1.0  # the false row is less sure than the right ones
    assert drivable.max_f_threshold == pytest.approx(103 / 255)
    assert drivable.false_drivable == pytest.approx(1 / 4)
    assert drivable.confident_wrong == 0.0
    # bins with pixels: 102/255 = 0.4 (1 row, wrong), 0.8 (2 rows, right), 1.0 (4 rows, right)
    assert evaluation.calibration.expected_error == pytest.approx((1 * 0.4 + 2 * 0.2) / 7)


def test_each_image_has_its_own_score(dataset, echo_segmenter) -> None:
    evaluation = evaluate(dataset, echo_segmenter())
    assert [image.name for image in evaluation.images] == ["a", "b"]
    assert evaluation.images[0].mean_iou == 1.0
    assert evaluation.images[1].mean_iou == pytest.approx(1 / 2)  # sky 1 of 2, road 1 of 2 rows
    assert evaluation.images[1].pixel_accuracy == pytest.approx(2 / 3)


def test_the_threshold_of_the_deployed_mask_is_an_option(dataset, echo_segmenter) -> None:
    drivable = evaluate(dataset, echo_segmenter()).drivable  # 0.5, as the node's
    assert drivable is not None
    assert drivable.precision == 1.0
    assert drivable.false_drivable == 0.0
    with pytest.raises(SettingsError, match=r"min_confidence: 2 is not in 0 to 1\nband: 0 pixels are not in 1 to 1000"):
        EvaluationOptions(min_confidence=2, band=0)


def test_an_image_without_truth_is_counted_apart(echo_dataset, echo_segmenter, rows) -> None:
    full, none = rows(ROAD, ROAD, ROAD, ROAD), rows(NONE, NONE, NONE, NONE)
    evaluation = evaluate(echo_dataset({"a": (full, full, full), "b": (none, full, full)}), echo_segmenter())
    assert evaluation.table().startswith("echo: 2 images (1 without a labeled pixel), 32 labeled pixels\n")


def test_of_a_model_without_confidence_none_is_judged(dataset, echo_segmenter, tmp_path: Path) -> None:
    evaluation = evaluate(dataset, echo_segmenter(confidence="none"))
    write_evaluations(tmp_path / "e.json", EvaluationFile("m", "e", (evaluation,)))
    for one in (evaluation, *read_evaluations(tmp_path / "e.json").evaluations):
        assert math.isnan(one.fractions()["calibration_error"])
        assert math.isnan(one.fractions()["confident_wrong_drivable"])
        assert one.fractions()["pixel_accuracy"] == pytest.approx(6 / 7)
        assert "its confidence is 100 % everywhere" in one.table()


def test_percentages_for_the_model_card(dataset, echo_segmenter) -> None:
    values = evaluate(dataset, echo_segmenter()).percentages()
    assert values["mean_iou"] == 75.0
    assert values["iou/road"] == 75.0
    assert values["drivable_f1"] == 100.0  # the false row is less sure than 0.5
    assert "iou/car" not in values  # no truth, no score


def test_a_class_without_truth_has_no_score_even_if_it_is_answered(echo_dataset, echo_segmenter, rows) -> None:
    dataset = echo_dataset({"a": (rows(ROAD, ROAD, ROAD, ROAD), rows(ROAD, ROAD, ROAD, CAR), rows(9, 9, 9, 9))})
    evaluation = evaluate(dataset, echo_segmenter())
    assert "iou/car" not in evaluation.percentages()
    assert evaluation.percentages()["mean_iou"] == 75.0
    assert "not in the truth" in evaluation.table()


def test_the_table_says_what_was_measured(dataset, echo_segmenter) -> None:
    table = evaluate(dataset, echo_segmenter()).table()
    assert "echo: 2 images, 56 labeled pixels" in table
    for row in ("road               75.00", "mean IoU           75.00", "drivable F1       100.00", "calibration"):
        assert row in table


def test_other_classes_are_refused(dataset, echo_segmenter) -> None:
    with pytest.raises(DatasetError, match=r"echo maps to the classes road, .* but the model knows sky, building"):
        evaluate(dataset, echo_segmenter("camvid11"))


def test_a_file_gives_everything_back(dataset, echo_segmenter, tmp_path: Path) -> None:
    evaluation = evaluate(dataset, echo_segmenter(), options=EvaluationOptions(0.25, 2))
    path = tmp_path / "evaluation.json"
    write_evaluations(path, EvaluationFile("m", "e", (evaluation,), (Example("echo", "best 1", "a", "c", "f.jpg"),)))
    read = read_evaluations(path)
    (again,) = read.evaluations
    assert (read.model, read.engine, read.examples[0].file) == ("m", "e", "f.jpg")
    assert (again.counts.table == evaluation.counts.table).all()
    assert again.images == evaluation.images
    assert again.options == evaluation.options
    assert again.table() == evaluation.table()
    assert json.loads(path.read_text())["evaluations"][0]["percent"]["mean_iou"] == 75.0


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "a.json: not valid JSON"),
        ('{"format": 9}', r"not what 'seg-perception evaluate --json' writes \(format 1\)"),
        ('{"format": 1, "model": "m", "engine": "e", "evaluations": [{}], "examples": []}', "KeyError: 'label_set'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_evaluations(path)


def test_counts_that_are_no_counts_are_refused(dataset, echo_segmenter, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_evaluations(path, EvaluationFile("m", "e", (evaluate(dataset, echo_segmenter()),)))
    document = json.loads(path.read_text())
    document["evaluations"][0]["counts"][0][0][0] = -1
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="pixel counts must be non-negative"):
        read_evaluations(path)


def test_best_and_worst_are_ranked_and_never_the_same(dataset, echo_segmenter) -> None:
    evaluation = evaluate(dataset, echo_segmenter())
    ranked = [(place, image.name) for place, image in best_and_worst(evaluation, best=3, worst=1)]
    assert ranked == [("worst 1", "b"), ("best 1", "a")]
    assert [place for place, _ in best_and_worst(evaluation, best=0, worst=5)] == ["worst 1", "worst 2"]


def test_the_picture_marks_what_is_wrong(dataset, echo_segmenter) -> None:
    sample = dataset.load(1)
    segmenter = echo_segmenter()
    picture = comparison(sample, segmenter.segment(sample.image), segmenter.card.label_set)
    assert picture.shape == (200, 5 * 400 + 4 * 4, 3)  # five panels of 400x200, four gaps
    wrong = picture[:, 3 * 404 : 3 * 404 + 400]  # the fourth panel; each row of the image is 50 high
    red = (wrong[..., 0] > 200) & (wrong[..., 1] < 60)
    assert red[60:90].all()  # row 1, sky taken for road
    assert not red[:40].any()
    assert not red[160:].any()  # row 3 has no truth
    assert np.unique(wrong[170:]).tolist() == [40]
