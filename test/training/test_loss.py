"""The loss against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from seg_perception.networks import build_network
from seg_perception.training.loss import LossModule, lovasz_softmax, pixel_loss_sum, pixel_weight

# Two images of one row and two pixels, two classes. Scores (class 0, class 1) of each pixel:
SCORES = torch.tensor(
    [
        [[[0.0, 2.0]], [[0.0, 0.0]]],  # image 0: pixel 0 (0, 0), pixel 1 (2, 0)
        [[[1.0, 0.0]], [[4.0, 3.0]]],  # image 1: pixel 0 (1, 4), pixel 1 (0, 3)
    ]
)
LABELS = torch.tensor([[[0, 0]], [[1, 255]]], dtype=torch.uint8)
# softmax of the true class, and its negative logarithm
CE_00 = math.log(2)  # (0, 0): one half
CE_01 = math.log(1 + math.exp(-2))  # (2, 0), truth 0: 1 / (1 + e^-2)
CE_10 = math.log(1 + math.exp(-3))  # (1, 4), truth 1: 1 / (1 + e^-3)


def mean_cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return pixel_loss_sum(scores, labels) / pixel_weight(labels).clamp(min=1)


def test_the_mean_over_all_labeled_pixels_of_all_images() -> None:
    expected = (CE_00 + CE_01 + CE_10) / 3  # the fourth pixel is unlabeled: neither in the sum nor in the count
    assert float(mean_cross_entropy(SCORES, LABELS)) == pytest.approx(expected, rel=1e-6)


def test_it_is_not_the_mean_of_the_images_means() -> None:
    mean_of_means = ((CE_00 + CE_01) / 2 + CE_10) / 2
    assert float(mean_cross_entropy(SCORES, LABELS)) != pytest.approx(mean_of_means, rel=1e-2)


def test_sum_and_count_of_parts_give_the_value_of_the_whole() -> None:
    parts = [(SCORES[i : i + 1], LABELS[i : i + 1]) for i in range(2)]  # as accumulation and several processes do
    total = sum(float(pixel_loss_sum(s, t)) for s, t in parts) / sum(float(pixel_weight(t)) for _, t in parts)
    assert total == pytest.approx(float(mean_cross_entropy(SCORES, LABELS)), rel=1e-6)


def test_class_weights_weigh_the_sum_and_the_divisor() -> None:
    weights = torch.tensor([1.0, 3.0])
    assert float(pixel_loss_sum(SCORES, LABELS, weights)) == pytest.approx(CE_00 + CE_01 + 3 * CE_10, rel=1e-6)
    assert float(pixel_weight(LABELS, weights)) == 1 + 1 + 3
    assert float(pixel_weight(LABELS)) == 3


def test_without_any_labeled_pixel_it_is_zero_and_so_is_the_gradient() -> None:
    scores = SCORES.clone().requires_grad_()
    loss = mean_cross_entropy(scores, torch.full_like(LABELS, 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros_like(SCORES))
    for share in (0.5, 1.0):
        assert float(pixel_loss_sum(SCORES, torch.full_like(LABELS, 255), hard_pixels=share)) == 0
    assert float(pixel_weight(torch.full_like(LABELS, 255), torch.tensor([1.0, 3.0]))) == 0


def test_coarse_scores_are_brought_to_the_labels_size() -> None:
    coarse = torch.tensor([[[[1.0]], [[2.0]]]])  # one cell for a label image of 2x2
    labels = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    # every pixel has the scores (1, 2): -log softmax is log(1 + e) for class 0 and log(1 + e^-1) for class 1
    expected = math.log(1 + math.e) + 2 * math.log(1 + math.exp(-1))
    assert float(pixel_loss_sum(coarse, labels)) == pytest.approx(expected, rel=1e-6)


def test_hard_pixels_are_the_worst_of_the_labeled_ones() -> None:
    # of three labeled pixels, two thirds are the two worst: log 2 and log(1 + e^-2); scaled up by 3/2
    expected = (CE_00 + CE_01) * 3 / 2
    assert float(pixel_loss_sum(SCORES, LABELS, hard_pixels=2 / 3)) == pytest.approx(expected, rel=1e-6)
    # the least share keeps one pixel, the worst
    assert float(pixel_loss_sum(SCORES, LABELS, hard_pixels=0.01)) == pytest.approx(3 * CE_00, rel=1e-6)


def test_the_magnitude_of_hard_pixels_does_not_depend_on_the_share_nor_on_unlabeled_pixels() -> None:
    even = torch.zeros(1, 2, 4, 4)  # every pixel's loss is log 2
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, :2] = 255  # half of them unlabeled
    for share in (0.25, 0.5, 1.0):
        assert float(pixel_loss_sum(even, labels, hard_pixels=share)) == pytest.approx(8 * math.log(2), rel=1e-6)


def test_half_precision_scores_are_summed_in_full() -> None:
    scores = torch.zeros(1, 2, 100, 100, dtype=torch.bfloat16)
    loss = pixel_loss_sum(scores, torch.zeros(1, 100, 100, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(10000 * math.log(2), rel=1e-5)


def test_network_and_loss_as_one_module() -> None:
    torch.manual_seed(1)
    network = build_network("efficientnet_ladder", 10, decoder_channels=16).eval()
    images = torch.randint(0, 256, (1, 32, 64, 3), dtype=torch.uint8)
    labels = torch.randint(0, 10, (1, 32, 64), dtype=torch.uint8)
    with torch.no_grad():
        fine, coarse = network.scores_with_auxiliary(network.normalize(images))
        # every fourth label in both directions stands for 16 pixels
        expected = pixel_loss_sum(fine, labels) + 0.4 * 16 * pixel_loss_sum(coarse, labels[:, ::4, ::4])
        module = LossModule(network, None, auxiliary=0.4, hard_pixels=1.0)
        assert float(module(images, labels)[0]) == pytest.approx(float(expected), rel=1e-5)
        assert not [name for name in module.state_dict() if "class_weights" in name]


def test_the_lovasz_loss_of_hard_predictions_is_one_minus_the_mean_iou() -> None:
    torch.manual_seed(2)
    labels = torch.randint(0, 3, (2, 5, 6), dtype=torch.uint8)
    labels[0, 0] = 255
    answers = torch.randint(0, 4, (2, 5, 6))  # class 3 is never true: only the classes in the labels count
    scores = 1e4 * torch.nn.functional.one_hot(answers, 4).movedim(3, 1).float()
    known = labels != 255
    ious = []
    for index in range(3):
        truth, said = (labels == index) & known, (answers == index) & known
        ious.append(float((truth & said).sum() / (truth | said).sum()))
    assert all(0 < iou < 1 for iou in ious)
    assert float(lovasz_softmax(scores, labels)) == pytest.approx(1 - sum(ious) / 3, abs=1e-6)
    assert float(lovasz_softmax(1e4 * torch.eye(4)[[0, 1]].T[None, :, None], torch.tensor([[[0, 1]]]))) == 0


def test_the_lovasz_loss_by_hand() -> None:
    # two pixels of truth 0 and 1, both with probabilities 3/4 and 1/4
    scores = torch.log(torch.tensor([0.75, 0.25]))[None, :, None, None].expand(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    # class 0: errors 1/4 (its pixel) and 3/4 (the other). Largest first: taking the other as wrong leaves
    # IoU 1/2, its own as well 0: 3/4 * 1/2 + 1/4 * 1/2 = 1/2.
    # class 1: errors 1/4 (the other) and 3/4 (its own). Its own as wrong: IoU 0 at once: 3/4 * 1 + 1/4 * 0 = 3/4.
    assert float(lovasz_softmax(scores, labels)) == pytest.approx((1 / 2 + 3 / 4) / 2, rel=1e-6)


def test_the_lovasz_loss_without_labels_is_zero_and_so_is_its_gradient() -> None:
    scores = SCORES.clone().requires_grad_()
    lovasz_softmax(scores, torch.full_like(LABELS, 255)).backward()
    assert torch.equal(scores.grad, torch.zeros_like(SCORES))


def test_the_lovasz_loss_is_weighed_like_the_mean_over_pixels() -> None:
    torch.manual_seed(1)
    network = build_network("efficientnet_ladder", 10, decoder_channels=16).eval()
    images = torch.randint(0, 256, (1, 32, 64, 3), dtype=torch.uint8)
    labels = torch.randint(0, 10, (1, 32, 64), dtype=torch.uint8)
    with torch.no_grad():
        plain, with_lovasz = (
            float(LossModule(network, None, auxiliary=0.0, hard_pixels=1.0, lovasz=weight)(images, labels)[0])
            for weight in (0.0, 0.5)
        )
        scores = network(network.normalize(images))
    # the scores have stride 2: the label in the middle of each cell stands for it
    expected = 0.5 * labels.numel() * float(lovasz_softmax(scores, labels[:, 1::2, 1::2]))
    assert with_lovasz - plain == pytest.approx(expected, rel=1e-4)


def test_an_unknown_pixel_costs_the_divergence_from_all_classes_being_equally_likely() -> None:
    scores = torch.log(torch.tensor([0.75, 0.25]))[None, :, None, None]
    unknown = torch.tensor([[[254]]], dtype=torch.uint8)
    # sum over the classes of 1/2 log(1/2 / p): log(2/3) and log(2), halved
    expected = (math.log(2 / 3) + math.log(2)) / 2
    assert float(pixel_loss_sum(scores, unknown)) == pytest.approx(expected, rel=1e-5)
    assert float(pixel_loss_sum(torch.zeros_like(scores), unknown)) == pytest.approx(0, abs=1e-6)
    assert float(pixel_weight(unknown)) == 1


def test_unknown_pixels_have_weight_one_and_are_never_mined() -> None:
    labels = LABELS.clone()
    labels[1, 0, 1] = 254  # scores (0, 3)
    # -log p is log(1 + e^-3) plus 3 and plus 0; their mean, less log 2
    unknown = math.log(1 + math.exp(-3)) + 3 / 2 - math.log(2)
    weights = torch.tensor([1.0, 3.0])
    weighed = CE_00 + CE_01 + 3 * CE_10 + unknown
    assert float(pixel_loss_sum(SCORES, labels, weights)) == pytest.approx(weighed, rel=1e-5)
    assert float(pixel_weight(labels, weights)) == 1 + 1 + 3 + 1
    mined = (CE_00 + CE_01) * 3 / 2 + unknown
    assert float(pixel_loss_sum(SCORES, labels, hard_pixels=2 / 3)) == pytest.approx(mined, rel=1e-5)
    assert float(lovasz_softmax(SCORES, labels)) == pytest.approx(float(lovasz_softmax(SCORES, LABELS)), rel=1e-6)


def slow_lovasz(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """By the definition, a class and a pixel at a time: the Jaccard loss grows as errors are taken as wrong."""
    pixels = [
        (scores.softmax(1)[n, :, y, x].tolist(), int(labels[n, y, x]))
        for n in range(labels.shape[0])
        for y in range(labels.shape[1])
        for x in range(labels.shape[2])
        if labels[n, y, x] < 254
    ]
    losses = []
    for c in range(scores.shape[1]):
        size = sum(truth == c for _, truth in pixels)
        if not size:
            continue
        rows = sorted(((abs((truth == c) - p[c]), truth == c) for p, truth in pixels), key=lambda row: -row[0])
        loss, before, found, union = 0.0, 0.0, size, size
        for error, belongs in rows:
            found, union = found - belongs, union + (not belongs)
            loss, before = loss + error * (1 - found / union - before), 1 - found / union
        losses.append(loss)
    return sum(losses) / len(losses) if losses else 0.0


def test_lovasz_of_all_classes_at_once_is_that_of_one_after_another() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 5, 6, 7, generator=generator)
    labels = torch.randint(0, 4, (2, 6, 7), generator=generator).to(torch.uint8)  # class 4 is nowhere
    labels[0, :2], labels[1, 0, 0] = 255, 254
    assert float(lovasz_softmax(scores, labels)) == pytest.approx(slow_lovasz(scores, labels), rel=1e-5)
    assert float(lovasz_softmax(scores, torch.full_like(labels, 255))) == 0


class _Waits:
    """Counts what would make a step wait for a GPU: values or sizes that only the device knows."""

    NAMES = ("item", "__bool__", "__float__", "__int__", "nonzero", "tolist", "__index__")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in self.NAMES:
            monkeypatch.setattr(torch.Tensor, name, self._counted(getattr(torch.Tensor, name)))
        getitem = torch.Tensor.__getitem__

        def counted_index(tensor: torch.Tensor, index: object) -> torch.Tensor:
            parts = index if isinstance(index, tuple) else (index,)
            self.count += any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)
            return getitem(tensor, index)

        monkeypatch.setattr(torch.Tensor, "__getitem__", counted_index)

    def _counted(self, function: object) -> object:
        def call(*args: object, **options: object) -> object:
            self.count += 1
            return function(*args, **options)  # type: ignore[operator]

        return call


def test_no_part_of_the_loss_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("reference", 5, width=0.1)
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0])
    module = LossModule(network, weights, auxiliary=0.4, hard_pixels=1.0, lovasz=0.5, unknown=True)
    images = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    labels = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8)
    labels[0, :8], labels[1, :8] = 255, 254
    waits = _Waits(monkeypatch)
    (module(images, labels)[0] / pixel_weight(labels, weights)).backward()
    assert waits.count == 0
    assert bool(torch.ones(1) > 0)  # the counter counts
    assert waits.count == 1
