"""The loss: the mean over all labeled pixels of the minibatch of the cross-entropy.

    L = (1 / N_total) sum_i CE(s*_i, s_i)

where i runs over the labeled pixels of all images; unlabeled pixels are in neither sum nor count. For a
pixel of nothing known (label 254) CE is the divergence of the uniform distribution from the network's, as in
outlier exposure (Hendrycks, Mazeika and Dietterich, https://arxiv.org/abs/1812.04606).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.types import UNKNOWN, UNLABELED
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.training.distillation import Features, Teachers, divergence_from, likeness, relation_divergence

_AUXILIARY_STEP = 4  # auxiliary scores are coarse: every fourth label in both directions is enough for them


def pixel_loss_sum(
    scores: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    hard_pixels: float = 1.0,
    unknown: bool = True,
) -> Tensor:
    """The sum of the (weighted) cross-entropy over labeled pixels.

    Args:
        scores: float [N, C, h, w] unnormalized; resized bilinearly to the labels' size.
        labels: uint8 or int64 [N, H, W]; 255 is unlabeled, 254 unknown.
        class_weights: float [C] or None for 1, which unknown pixels always have.
        hard_pixels: share of the pixels with a class, those of highest loss, to sum; the sum is scaled
            up by its inverse, so that the magnitude does not depend on the share.
        unknown: whether label 254 may occur; without it, looking for it is saved.
    """
    scores = scores.float().contiguous()  # here, where the map is small: the loss runs slower on other layouts
    if scores.shape[2:] != labels.shape[1:]:
        scores = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=False)
    logs = scores.log_softmax(dim=1)  # [N, C, H, W]
    classes = labels.long()
    total = scores.new_zeros(())
    if unknown:
        is_unknown = labels == UNKNOWN
        divergence = -logs.mean(dim=1) - math.log(scores.shape[1])  # 0 where all classes are equally likely
        total = total + (divergence * is_unknown).sum()
        classes = classes.masked_fill(is_unknown, UNLABELED)
    losses = F.nll_loss(logs, classes, weight=class_weights, ignore_index=UNLABELED, reduction="none").flatten()
    if hard_pixels == 1:
        return losses.sum() + total
    count = (classes != UNLABELED).sum()
    kept = (count.double() * hard_pixels).ceil()
    losses = losses.sort(descending=True).values  # those without a class are 0 and come last
    hardest = losses * (torch.arange(len(losses), device=losses.device) < kept)
    return hardest.sum() * (count / kept.clamp(min=1)).float() + total


def pixel_weight(labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """The divisor: how many pixels are labeled or unknown, or the sum of their class weights."""
    if class_weights is None:
        return (labels != UNLABELED).sum().float()
    table = class_weights.new_zeros(256)  # a look-up has no need to know how many pixels there are, as indexing has
    table[: len(class_weights)] = class_weights
    table[UNKNOWN] = 1.0
    return table[labels.long()].sum()


def divisors(labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """What the two sums of `LossModule` are divided by: `pixel_weight`, and the pixels that teachers are heard on."""
    return torch.stack([pixel_weight(labels, class_weights), (labels != UNKNOWN).sum().float()])


def lovasz_softmax(scores: Tensor, labels: Tensor) -> Tensor:
    """A differentiable stand-in for 1 - IoU, the mean over the classes in the labels.

    Each class's Jaccard loss in its Lovasz extension (Berman, Triki and Blaschko,
    https://arxiv.org/abs/1705.08790): errors count by how much the loss grows when they are taken as
    wrong one after another, the largest first. With hard predictions it is exactly 1 - IoU.

    Args:
        scores: float [N, C, h, w] unnormalized.
        labels: uint8 or int64 [N, h, w]; 255 and 254 do not count. The IoU is that of the whole batch.
    """
    classes = scores.shape[1]
    labeled = (labels < UNKNOWN).flatten()  # [P]
    probabilities = scores.float().softmax(dim=1).movedim(1, 0).flatten(1)  # [C, P]
    belongs = (labels.flatten()[None] == torch.arange(classes, device=labels.device)[:, None]).float()
    # a pixel without label has no error, comes last and adds nothing
    error = (belongs - probabilities).abs() * labeled
    error, order = error.sort(dim=1, descending=True)
    belongs, counted = belongs.gather(1, order), labeled.float().expand(classes, -1).gather(1, order)
    # with the k largest errors taken as wrong: the pixels of the class that are still found, and the union
    size = belongs.sum(dim=1, keepdim=True)  # [C, 1]
    found = size - belongs.cumsum(dim=1)
    union = size + (counted - belongs).cumsum(dim=1)
    jaccard = 1 - found / union.clamp(min=1)
    growth = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(classes, 1))
    present = (size > 0).float().squeeze(1)
    losses = (error * growth).sum(dim=1) * present
    return losses.sum() / present.sum().clamp(min=1)


class LossModule(nn.Module):
    """Network and loss as one module, so that DistributedDataParallel sees one forward pass.

    `forward` takes uint8 [n, h, w, 3] and [n, h, w], and kept answers of teachers, float [n, C, any, any], where there
    are no teachers to ask; it returns float [2], the weighted sums of the losses by labels and by teachers, which the
    caller divides by the `divisors` of the whole global batch. Nothing in it waits for the device. The Lovasz loss,
    which is no sum over pixels, is that of each call's pixels, at the scores' size.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        class_weights: Tensor | None,
        auxiliary: float,
        hard_pixels: float,
        lovasz: float = 0.0,
        unknown: bool = True,
        teachers: Teachers | None = None,
        distillation: float = 0.0,
        relations: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self._teachers = (teachers,)  # hidden from state_dict and from DDP
        self.distillation, self.relations, self.temperature = distillation, relations, temperature
        self._features = Features(network) if relations else None
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.auxiliary = auxiliary
        self.hard_pixels = hard_pixels
        self.lovasz = lovasz
        self.unknown = unknown

    def forward(self, images: Tensor, labels: Tensor, answers: Tensor | None = None) -> Tensor:
        x = self.network.normalize(images).contiguous(memory_format=torch.channels_last)
        scores, *coarser = self.network.scores_with_auxiliary(x)
        features = self._features.newest if self._features is not None else None
        loss = pixel_loss_sum(scores, labels, self.class_weights, self.hard_pixels, self.unknown)
        for other in coarser:
            sparse = labels[:, ::_AUXILIARY_STEP, ::_AUXILIARY_STEP]
            scale = self.auxiliary * labels.numel() / sparse.numel()
            loss = loss + scale * pixel_loss_sum(other, sparse, self.class_weights, unknown=self.unknown)
        if self.lovasz:
            stride = self.network.score_stride
            sparse = labels[:, stride // 2 :: stride, stride // 2 :: stride]
            loss = loss + self.lovasz * pixel_weight(labels, self.class_weights) * lovasz_softmax(scores, sparse)
        taught = loss.new_zeros(())
        (teachers,) = self._teachers
        if teachers is not None or answers is not None:
            stride = self.network.score_stride
            sparse = labels[:, stride // 2 :: stride, stride // 2 :: stride]
            if teachers is not None:
                answers = teachers(images, (scores.shape[2], scores.shape[3]))
            assert answers is not None
            divergence = self.distillation * divergence_from(answers, scores, sparse, self.temperature)
            if teachers is not None and features is not None:
                size = (labels.shape[1], labels.shape[2])
                theirs, ours = teachers.likeness(size), likeness(features, size)
                divergence = divergence + self.relations * relation_divergence(theirs, ours)
            taught = (labels != UNKNOWN).sum() * divergence
        return torch.stack([loss, taught])
