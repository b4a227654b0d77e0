"""Teachers: networks of earlier runs whose answers a new one learns, beside the labels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from seg_perception.core.errors import SettingsError
from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.core.resizing import network_size, resize_image
from seg_perception.core.types import UNKNOWN, RgbImage, Size
from seg_perception.datasets.base import Dataset
from seg_perception.networks import build_network
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.training import checkpoint
from seg_perception.training.augmentation import Cut
from seg_perception.training.checkpoint import weights_sha256
from seg_perception.training.settings import TrainSettings

_CELL = 32
"""Side of the places that are compared, in pixels of the crop."""

_LIKENESS = 0.1
"""Temperature of the likeness of two places, as in CIRKD's code."""


class Features:
    """Keeps what a network's last layer was given in its newest forward pass."""

    def __init__(self, network: SegmentationNetwork) -> None:
        self.newest: Tensor | None = None
        network.get_submodule(network.score_layers[0]).register_forward_pre_hook(self._keep)

    def _keep(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.newest = inputs[0]


def likeness(features: Tensor, size: tuple[int, int]) -> Tensor:
    """How alike each place of a batch's images finds every other, as scores: float [P, P] over P = N rows x columns.

    Args:
        features: float [N, D, h, w]; any D, since only directions are compared.
        size: height and width of the crop in pixels; a place is `_CELL` of them wide and high.
    """
    grid = (max(1, size[0] // _CELL), max(1, size[1] // _CELL))
    places = F.adaptive_avg_pool2d(features.float(), grid).flatten(2).movedim(1, 2).flatten(0, 1)  # [P, D]
    directions = F.normalize(places, dim=1)
    with torch.autocast(features.device.type, enabled=False):  # differences of hundredths count
        return directions @ directions.T / _LIKENESS


def relation_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """The mean over places of KL(teacher || student), of `likeness` scores [P, P] softmaxed over the other place.

    Pixel relations across images as in Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic
    Segmentation" (https://arxiv.org/abs/2204.06986), of the minibatch; without the paper's memory of earlier batches.
    """
    return F.kl_div(student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True)


class Teachers(nn.Module):
    """Frozen networks; `forward` takes uint8 images [N, H, W, 3] and gives their mean probabilities.

    Args:
        networks: in any mode; they are left frozen and evaluating.
        temperature: scores are divided by it.
        relations: whether `likeness` is asked for, too.
    """

    def __init__(self, networks: Sequence[SegmentationNetwork], temperature: float, relations: bool = False) -> None:
        super().__init__()
        self._features = [Features(network) for network in networks] if relations else []
        self._networks = tuple(network.eval().requires_grad_(False) for network in networks)  # in no state_dict
        self.temperature = temperature

    def to_device(self, device: torch.device) -> Teachers:
        for network in self._networks:
            network.to(device)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Float [N, C, h, w] of sum 1, for scores of h x w."""
        answers: list[Tensor] = []
        for network in self._networks:
            scores = network(network.normalize(images)).float()
            if scores.shape[2:] != size:
                scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
            answers.append((scores / self.temperature).softmax(dim=1))
        return torch.stack(answers).mean(dim=0)

    def likeness(self, size: tuple[int, int]) -> Tensor:
        """The mean of theirs, of the images of the newest `forward`."""
        found = [likeness(kept.newest, size) for kept in self._features if kept.newest is not None]
        return torch.stack(found).mean(dim=0)


def open_teachers(
    files: Sequence[Path], temperature: float, label_set: LabelSet, relations: bool = False
) -> Teachers | None:
    """Load teachers; None where there are none.

    Raises:
        SettingsError: a teacher has other classes than the training data.
        FileNotFoundError, ModelError: see `checkpoint.load_weights`.
    """
    networks = []
    for path in files:
        weights, info = checkpoint.load_weights(path)
        if info.label_set.names != label_set.names:
            raise SettingsError(
                f"distillation.teachers: {path} knows {', '.join(info.label_set.names)}; the training data has "
                f"{', '.join(label_set.names)}"
            )
        network = build_network(info.network, len(label_set), **info.options)
        checkpoint.load_strictly(network, weights, str(path))
        networks.append(network)
    return Teachers(networks, temperature, relations) if networks else None


def divergence_from(teacher: Tensor, scores: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean over pixels of KL(teacher || student), times the temperature's square, which keeps its gradients' size.

    Args:
        teacher: probabilities at the temperature, float [N, C, any, any], resized to the scores; 0 for all classes
            counts as a pixel without divergence.
        scores: the student's, float [N, C, h, w] unnormalized.
        labels: uint8 [N, h, w]; pixels of nothing known (254) do not count: no teacher knows them either.
    """
    if teacher.shape[2:] != scores.shape[2:]:
        teacher = F.interpolate(teacher.float(), size=scores.shape[2:], mode="bilinear", align_corners=False)
    logs = (scores.float() / temperature).log_softmax(dim=1)
    divergence = F.kl_div(logs, teacher, reduction="none").sum(dim=1)  # [N, h, w]
    counts = (labels != UNKNOWN).float()
    return (divergence * counts).sum() / counts.sum().clamp(min=1) * temperature**2


STRIDE = 4
_MULTIPLE = 32  # of every network's input
_KEPT_AS = "npy and checksum"
_CHECKSUM = 20  # bytes

Answer = NDArray[np.float16]


class TeacherAnswers:
    """The kept answers of these teachers at this temperature and size; `prepare` makes those that are missing.

    On a CPU a teacher costs a step as much as its pupil, and each image comes often. One file an image, float16
    [C, h, w] and a checksum: the teachers' mean probabilities on the whole image in the deployed size, at a quarter of
    it. A crop takes its window of them. So the teachers see neither crop nor changes of color.

    Args:
        settings: of the run; `distillation.cache` names the folder.
    """

    def __init__(self, settings: TrainSettings) -> None:
        teaching = settings.distillation
        assert teaching.cache is not None
        self._settings = settings
        known = [weights_sha256(path) for path in teaching.files]
        self._known_by = repr((known, teaching.temperature, settings.deployed_size, STRIDE, _KEPT_AS)).encode()
        self._folder = teaching.cache

    def load(self, image: RgbImage) -> Answer:
        """Read the answer to an image, float16 [C, h, w].

        Raises:
            SettingsError: there is none for this image, or the file is damaged.
        """
        path = self._path(image)
        answer = _read(path)
        if answer is None:
            raise SettingsError(
                f"distillation.cache: {path} is not there or damaged; start the run again, which makes it anew"
            )
        return answer

    def prepare(self, datasets: Sequence[Dataset], label_set: LabelSet, device: torch.device) -> str:
        """Let the teachers answer every image of the datasets that has no answer yet; what was done, in words.

        Raises:
            SettingsError: more than `cache_gigabytes` would be kept; or see `open_teachers`.
        """
        teaching = self._settings.distillation
        count = sum(map(len, datasets))
        deployed = self._settings.deployed_size
        gigabytes = count * len(label_set) * deployed.width * deployed.height / STRIDE**2 * 2e-9
        if gigabytes > teaching.cache_gigabytes:
            raise SettingsError(
                f"distillation.cache: the answers on {count} images take {gigabytes:.1f} GB, more than "
                f"cache_gigabytes, {teaching.cache_gigabytes:g}; raise it, or leave the cache out"
            )
        teachers = open_teachers(teaching.files, teaching.temperature, label_set)
        assert teachers is not None
        teachers.to_device(device)
        made = damaged = 0
        for dataset in datasets:
            for index in tqdm(range(len(dataset)), f"teachers on {dataset.name}", unit="image", leave=False):
                image = dataset.load(index).image
                path = self._path(image)
                if _read(path) is not None:
                    continue
                damaged += path.exists()
                size = network_size(Size.of(image), deployed, _MULTIPLE)
                pixels = torch.from_numpy(resize_image(image, size))[None].to(device)
                answer = teachers(pixels, (size.height // STRIDE, size.width // STRIDE))[0]
                content = io.BytesIO()
                np.save(content, answer.half().cpu().numpy())
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content.getvalue() + _checksum(content.getvalue()))
                made += 1
        told = f"{made} new" + (f", {damaged} of them for damaged ones" if damaged else "")
        return f"teachers' answers on {count} images in {self._folder} ({told}), {gigabytes:.2f} GB"

    def _path(self, image: RgbImage) -> Path:
        digest = hashlib.blake2b(self._known_by, digest_size=20)
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        name = digest.hexdigest()
        return self._folder / name[:2] / f"{name}.npy"


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM).digest()


def _read(path: Path) -> Answer | None:
    """A kept answer; None if it is not there, or not as it was written."""
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        return None
    content = kept[:-_CHECKSUM]
    if kept[-_CHECKSUM:] != _checksum(content):
        return None
    answer: Answer = np.load(io.BytesIO(content), allow_pickle=False)
    return answer


def answer_of_crop(answer: Answer, cut: Cut, crop: Size) -> Answer:
    """The window of an answer that a crop shows, float16 [C, crop height / 4, crop width / 4]; 0 beyond the image."""
    height, width = crop.height // STRIDE, crop.width // STRIDE
    x = (np.arange(width) + 0.5) * STRIDE  # centers of the cells, in the crop's pixels
    y = (np.arange(height) + 0.5) * STRIDE + cut.top
    x = (crop.width - x if cut.flip else x) + cut.left
    columns = (x / cut.zoomed.width * answer.shape[2] - 0.5).astype(np.float32)
    rows = (y / cut.zoomed.height * answer.shape[1] - 0.5).astype(np.float32)
    x_map, y_map = np.meshgrid(columns, rows)
    planes = [
        cv2.remap(plane, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for plane in answer.astype(np.float32)
    ]
    beyond = (y >= cut.zoomed.height)[:, None] | (x >= cut.zoomed.width)[None, :]
    return np.where(beyond, 0, np.stack(planes)).astype(np.float16)
