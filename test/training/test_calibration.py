"""Temperature scaling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import LabelSet, load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.export.to_onnx import DeployedGraph
from seg_perception.networks import build_network
from seg_perception.training.calibration import best_temperature, calibrate, mean_loss


def test_loss_by_hand() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    truth = torch.tensor([0, 0])
    # temperature 2 leaves scores (1, 0) and (0, 1): -ln(e / (e + 1)) and -ln(1 / (e + 1))
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert mean_loss(scores, truth, 2.0) == pytest.approx(expected)


def test_the_best_temperature_makes_confidence_equal_accuracy() -> None:
    # Four of five answers with a score difference of 6 are right. At the minimum the mean probability of the
    # answer is 0.8 exactly: 1 / (1 + exp(-6 / T)) = 0.8, so T = 6 / ln 4.
    scores = torch.tensor([[6.0, 0.0]] * 5)
    truth = torch.tensor([0, 0, 0, 0, 1])
    assert best_temperature(scores, truth) == pytest.approx(6 / math.log(4), rel=1e-3)


def test_known_temperature_is_found_again() -> None:
    random = np.random.default_rng(3)
    scores = random.normal(0, 2, (20000, 10))
    odds = np.exp(scores / 1.7)
    probability = odds / odds.sum(axis=1, keepdims=True)
    truth = (probability.cumsum(axis=1) > random.random((20000, 1))).argmax(axis=1)  # drawn as the odds say
    assert best_temperature(torch.from_numpy(scores), torch.from_numpy(truth)) == pytest.approx(1.7, rel=0.03)


@pytest.mark.parametrize("answer", [0, 1], ids=["all right", "all wrong"])
def test_answers_that_no_temperature_fits_are_refused(answer: int) -> None:
    scores = torch.tensor([[4.0, 0.0]] * 5)
    with pytest.raises(DatasetError, match=r"no temperature in 0.05 to 20.0 fits these answers"):
        best_temperature(scores, torch.full((5,), answer))


class Squares:
    """Two images whose left half is class 0 and right half class 1; the lowest row is unlabeled."""

    name = "squares"

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set

    def __len__(self) -> int:
        return 2

    def load(self, index: int) -> Sample:
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, 32:] = 200 + 20 * index
        labels = np.zeros((48, 64), np.uint8)
        labels[:, 32:] = 1
        labels[-1] = 255
        return Sample(str(index), image, labels)


@pytest.fixture(scope="module")
def network_and_card():
    torch.manual_seed(0)
    network = build_network("reference", 10, width=0.125)
    card = ModelCard("tiny", "0", "reference", load_label_set(), Size(64, 48), network.size_multiple, "fp32", "")
    return network, card


def test_a_network_is_calibrated_on_its_deployed_path(network_and_card) -> None:
    network, card = network_and_card
    fit = calibrate(network, card, [Squares(card.label_set)], pixels_per_image=500)
    assert fit.pixels == 1000
    assert fit.loss_after <= fit.loss_before
    assert fit.after.accuracy == fit.before.accuracy  # labels never change
    again = calibrate(network, card, [Squares(card.label_set)], pixels_per_image=500)
    assert again.temperature == fit.temperature  # repeats exactly

    # the deployed graph at that temperature has the mean confidence that the fit promises, within sampling and bytes
    confidences = []
    for index in range(2):
        image = torch.from_numpy(Squares(card.label_set).load(index).image[None])
        with torch.inference_mode():
            _, confidence = DeployedGraph(network.eval(), fit.temperature)(image)
        confidences.append(confidence[0, :-1].float().mean() / 255)  # the last row is unlabeled
    assert float(sum(confidences)) / 2 == pytest.approx(fit.after.mean_confidence, abs=0.02)


def test_more_pixels_than_there_are_takes_all_labeled_ones(network_and_card) -> None:
    network, card = network_and_card
    fit = calibrate(network, card, [Squares(card.label_set)], pixels_per_image=10**6)
    assert fit.pixels == 2 * 47 * 64  # the unlabeled row is never drawn


def test_other_classes_and_empty_data_are_refused(network_and_card) -> None:
    network, card = network_and_card
    with pytest.raises(DatasetError, match="squares maps to other classes than the network's"):
        calibrate(network, card, [Squares(load_label_set("camvid11"))])
    with pytest.raises(DatasetError, match="no labeled pixel to fit a temperature to"):
        calibrate(network, card, [])
