"""Training data that lives decoded on the training device, where crops are cut and changed in whole batches.

The same changes as `augmentation.py` makes one crop at a time on the CPU, of the same distribution, drawn from other
random numbers: a batch is a function of (seed, step), and each process takes its places of it. The host draws what is
to be done and never waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_perception.core.errors import SettingsError
from seg_perception.core.resizing import network_size, resize_image, resize_labels
from seg_perception.core.types import UNKNOWN, UNLABELED, Size
from seg_perception.datasets.base import Dataset, Sample
from seg_perception.engines.processor import usable_cores
from seg_perception.training import augmentation as change
from seg_perception.training.augmentation import COVER_SIDE, COVER_WHOLE, PADDING_GRAY, unknown_texture
from seg_perception.training.data import (
    Batches,
    DataRecord,
    TrainingCrops,
    demand_shared_memory,
    micro_batch_size,
    training_batches,
)
from seg_perception.training.distillation import TeacherAnswers
from seg_perception.training.settings import TrainSettings

_TEXTURES = 64  # kept; mirrored two ways and with their channels in any order, 1536
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_BILINEAR_TO = 1.5  # shrinking more than this, an output pixel is the mean of four places
_SHARE_OF_FREE = 0.5  # of the device's memory, for the data: the rest is for the training
_ROUND = 32  # samples decoded before their sizes are added up
_DRAWS = 32  # random numbers of a crop

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def lives_on_device(settings: TrainSettings, device: torch.device) -> bool:
    """Whether the data is to lie in the device's memory, as far as the settings say."""
    if settings.data_on == "auto":
        return device.type == "cuda" and settings.distillation.cache is None
    return settings.data_on == "device"


def open_batches(
    settings: TrainSettings, train: Sequence[Dataset], device: torch.device, first_step: int, rank: int, world: int
) -> tuple[Batches, str]:
    """Micro-batches from `first_step` on, uint8 [n, h, w, 3] and uint8 [n, h, w], and teachers' answers where they are
    kept; and who makes them, in words.

    Raises:
        SettingsError: the data is to live on the device and does not fit; or see `demand_shared_memory`.
        DatasetError, OSError: a file cannot be read any more; names it.
    """
    why = ""
    if first_step == settings.steps:
        none: tuple[tuple[Tensor, ...], ...] = ()
        return (batch for batch in none), "no crops are needed"
    if lives_on_device(settings, device):
        room, limit, remedy = _room(settings, device)
        data = _kept_or_loaded(settings, train, device, room)
        if data is not None:
            batches = ResidentCrops(settings, data).batches(first_step, rank, world)
            return batches, f"{data.gigabytes:.2f} GB of decoded data on the device, which cuts and changes the crops"
        why = f"the decoded data takes more than {limit}"
        if settings.data_on == "device":
            raise SettingsError(f"data_on: {why}; {remedy}write 'auto' or 'workers'")
        why = f" ({why})"
        demand_shared_memory(settings, micro_batch_size(settings, world))
    answers = None
    if settings.distillation.cache is not None:
        answers = TeacherAnswers(settings)
        why += f"; {answers.prepare(train, train[0].label_set, device)}"
    crops = TrainingCrops(settings, train, answers)
    told = ("this process cuts", "one worker cuts", f"{settings.workers} workers cut")[min(settings.workers, 2)]
    return training_batches(crops, settings, first_step, rank, world), f"{told} the crops{why}"


def _room(settings: TrainSettings, device: torch.device) -> tuple[float, str, str]:
    """Bytes that the data may take on the device; what limits them, and what helps, in words."""
    asked = settings.cache_gigabytes * 1e9
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] * _SHARE_OF_FREE
        if free < asked:
            return free, f"half of the device's free memory, {free / 1e9:.2f} GB", ""
    return asked, f"cache_gigabytes, {settings.cache_gigabytes:g}", "raise it, or "


@dataclass(frozen=True, slots=True)
class ResidentData:
    """Decoded samples, one after another.

    Attributes:
        pixels: uint8 [P, 3] RGB on the device, all samples' rows.
        labels: uint8 [P] on the device.
        first: int64 [S], where each sample begins.
        width, height: int64 [S].
        target: int64 [S, 2], the width and height that the deployed size gives each sample.
        begins: of the datasets among the samples, and the end.
        places: rare class -> for each sample the positions of its pixels in it, where there are any.
    """

    pixels: Tensor
    labels: Tensor
    first: Integers
    width: Integers
    height: Integers
    target: Integers
    begins: tuple[int, ...]
    places: tuple[dict[int, NDArray[np.int32]], ...]

    @property
    def gigabytes(self) -> float:
        return 4e-9 * len(self.labels)


def load_resident(
    settings: TrainSettings, datasets: Sequence[Dataset], device: torch.device, room: float = math.inf
) -> ResidentData | None:
    """Decode everything into the device's memory; None if it takes more than `room`, in bytes.

    Samples larger than any zoom needs are shrunk first.

    Raises:
        DatasetError, OSError: a file cannot be read; names it.
    """
    augmentation = settings.augmentation
    rare_ids = [datasets[0].label_set.id_of(name) for name in augmentation.rare_classes] if augmentation.rare else []
    largest = augmentation.scale[1] * augmentation.aspect**0.5
    jobs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    pixels: list[Tensor] = []
    labels: list[Tensor] = []
    sizes: list[Size] = []
    targets: list[Size] = []
    places: tuple[dict[int, NDArray[np.int32]], ...] = tuple({} for _ in rare_ids)
    left = room

    def load(job: tuple[Dataset, int]) -> tuple[Sample, Size]:
        sample = job[0].load(job[1])
        target = network_size(Size.of(sample.image), settings.deployed_size, 1)
        return _no_larger(sample, target, largest), target

    with ThreadPoolExecutor(usable_cores()) as pool:
        for begin in range(0, len(jobs), _ROUND):
            for sample, target in pool.map(load, jobs[begin : begin + _ROUND]):
                left -= sample.image.nbytes + sample.labels.nbytes
                for kept, class_id in zip(places, rare_ids, strict=True):
                    if len(found := np.flatnonzero(sample.labels == class_id)):
                        kept[len(sizes)] = found.astype(np.int32)
                sizes.append(Size.of(sample.image))
                targets.append(target)
                pixels.append(torch.from_numpy(sample.image.reshape(-1, 3).copy()))
                labels.append(torch.from_numpy(sample.labels.reshape(-1).copy()))
            if left < 0:
                return None
    areas = [size.width * size.height for size in sizes]
    return ResidentData(
        pixels=torch.cat(pixels).to(device),
        labels=torch.cat(labels).to(device),
        first=np.array([0, *accumulate(areas[:-1])], np.int64),
        width=np.array([size.width for size in sizes], np.int64),
        height=np.array([size.height for size in sizes], np.int64),
        target=np.array([(size.width, size.height) for size in targets], np.int64),
        begins=(0, *accumulate(len(dataset) for dataset in datasets)),
        places=places,
    )


_kept: dict[str, ResidentData] | None = None


@contextmanager
def kept_between_runs() -> Iterator[None]:
    """Inside, runs on the same data share one copy of it on the device."""
    global _kept  # noqa: PLW0603  of this process, as the device's memory is
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def _kept_or_loaded(
    settings: TrainSettings, train: Sequence[Dataset], device: torch.device, room: float
) -> ResidentData | None:
    if _kept is None:
        return load_resident(settings, train, device, room)
    a = settings.augmentation
    records = [DataRecord.of(dataset, "train") for dataset in train]
    key = repr((settings.data_root, settings.train, records, settings.deployed_size, a.scale, a.aspect, a.rare > 0,
                a.rare_classes, settings.cache_gigabytes, str(device)))  # fmt: skip
    if key not in _kept:
        data = load_resident(settings, train, device, room)
        if data is None:
            return None
        _kept.clear()
        _kept[key] = data
    return _kept[key]


def _no_larger(sample: Sample, target: Size, largest: float) -> Sample:
    width, height = round(target.width * largest), round(target.height * largest)
    if sample.image.shape[1] <= width or sample.image.shape[0] <= height:
        return sample
    size = Size(width, height)
    return Sample(sample.name, resize_image(sample.image, size), resize_labels(sample.labels, size))


class _Uniform:
    """Independent numbers of 0 to 1 for each crop of a step, a column at a time."""

    def __init__(self, seed: int, step: int, batch: int, places: slice) -> None:
        drawn: Floats = np.random.default_rng([seed, step]).random((batch, _DRAWS))[places]
        self._columns: Iterator[Floats] = iter(drawn.T)

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Floats:
        return low + next(self._columns) * (high - low)

    def below(self, count: Integers | int) -> Integers:
        """Whole numbers of 0 to count - 1."""
        numbers: Integers = np.minimum(next(self._columns) * count, np.asarray(count) - 1).astype(np.int64)
        return numbers

    def happens(self, chance: float) -> NDArray[np.bool_]:
        happened: NDArray[np.bool_] = next(self._columns) < chance
        return happened


@dataclass(frozen=True, slots=True)
class Draws:
    """What is done to each crop of a batch; arrays over its n crops.

    Attributes:
        sample: which.
        zoomed: int64 [n, 2], width and height after the zoom.
        corner: int64 [n, 2], left and top of the crop in it.
        flip: whether it is mirrored.
        tone: float [n, 7]: gamma, contrast, brightness, three gains, saturation.
        blur, noise, jpeg: standard deviations and quality; 0: not done.
        cover: int64 [n, 5]: top, bottom, left, right and the texture's number; bottom 0: not covered.
    """

    sample: Integers
    zoomed: Integers
    corner: Integers
    flip: NDArray[np.bool_]
    tone: Floats
    blur: Floats
    noise: Floats
    jpeg: Floats
    cover: Integers


def draw(settings: TrainSettings, data: ResidentData, step: int, places: slice) -> Draws:
    """Draw what is done to these places of a step's batch."""
    a, crop = settings.augmentation, settings.augmentation.crop
    uniform = _Uniform(settings.seed, step, settings.batch_size, places)
    shares = np.cumsum([s.weight for s in settings.train])
    begins = np.array(data.begins)
    which = np.minimum(np.searchsorted(shares / shares[-1], uniform(), side="right"), len(shares) - 1)
    sample = begins[which] + uniform.below(begins[which + 1] - begins[which])

    zoom = np.exp(uniform(*np.log(a.scale)))
    stretch = np.exp(uniform(-1, 1) * np.log(a.aspect) / 2)
    factors = np.stack([zoom * stretch, zoom / stretch], axis=1)
    zoomed = np.maximum(1, np.rint(data.target[sample] * factors)).astype(np.int64)
    last = np.maximum(0, zoomed - (crop.width, crop.height))
    corner = np.stack([uniform.below(last[:, 0] + 1), uniform.below(last[:, 1] + 1)], axis=1)
    wanted, of_class, of_place = uniform.happens(a.rare), uniform(), uniform()
    back = np.stack([uniform.below(crop.width), uniform.below(crop.height)], axis=1)
    for i in np.flatnonzero(wanted):
        present = [kept[sample[i]] for kept in data.places if sample[i] in kept]
        if present:  # any crop that holds one pixel of one of those classes, the class first
            found = present[int(of_class[i] * len(present))]
            row, column = divmod(int(found[int(of_place[i] * len(found))]), int(data.width[sample[i]]))
            native = np.array([data.width[sample[i]], data.height[sample[i]]])
            pixel = ((np.array([column, row]) + 0.5) * zoomed[i] / native).astype(np.int64)
            corner[i] = np.clip(pixel - back[i], 0, last[i])

    flip = uniform.happens(a.flip)
    gamma = np.exp(uniform(-1, 1) * np.log(a.gamma))
    amounts = (a.contrast, a.brightness, a.color_cast, a.color_cast, a.color_cast, a.saturation)
    tone = np.stack([gamma, *(uniform(1 - amount, 1 + amount) for amount in amounts)], axis=1)
    blur = np.where(uniform.happens(a.blur), uniform(0.4, 1.5), 0)
    noise = np.where(uniform.happens(a.noise), uniform(2, 12), 0)
    jpeg = np.where(uniform.happens(a.jpeg), 35 + uniform.below(90 - 35), 0)

    covered, partly = uniform.happens(a.unknown), uniform() >= COVER_WHOLE
    width = np.where(partly, np.rint(crop.width * uniform(*COVER_SIDE)), crop.width).astype(np.int64)
    height = np.where(partly, np.rint(crop.height * uniform(*COVER_SIDE)), crop.height).astype(np.int64)
    left, top = uniform.below(crop.width - width + 1), uniform.below(crop.height - height + 1)
    texture = uniform.below(_TEXTURES * 4 * len(_ORDERS))
    cover = np.stack([top, top + height, left, left + width, texture], axis=1) * covered[:, None]
    return Draws(sample, zoomed, corner, flip, tone, blur, noise, jpeg, cover)


class ResidentCrops:
    """Cuts and changes batches on the device.

    Args:
        settings: of the run.
        data: see `load_resident`.
    """

    def __init__(self, settings: TrainSettings, data: ResidentData) -> None:
        self._settings, self._data = settings, data
        self._device = data.pixels.device
        self._jpeg = change.JpegLike(self._device)
        crop = settings.augmentation.crop
        rng = np.random.default_rng([settings.seed, _TEXTURES])
        made = [unknown_texture(rng, crop) for _ in range(_TEXTURES)] if settings.augmentation.unknown else []
        self._textures = torch.from_numpy(np.stack(made)).to(self._device) if made else None

    def batches(self, first_step: int, rank: int, world: int) -> Batches:
        """Micro-batches as `data.training_batches` gives them, on the device."""
        settings = self._settings
        size = micro_batch_size(settings, world)
        for step in range(first_step, settings.steps):
            for turn in range(settings.accumulation):
                first = (turn * world + rank) * size
                yield self.batch(step, slice(first, first + size))

    def batch(self, step: int, places: slice) -> tuple[Tensor, Tensor]:
        """Images, uint8 [n, h, w, 3] RGB, and labels, uint8 [n, h, w], of these places of a step's batch."""
        draws = draw(self._settings, self._data, step, places)
        x, labels = self.cut(draws)
        tones = self._there(draws.tone.astype(np.float32))
        x = change.tone(x, tones[:, 0], tones[:, 1], tones[:, 2], tones[:, 3:6])
        x = change.saturate(x, tones[:, 6])

        def noisy(part: Tensor, sigma: Tensor) -> Tensor:
            seeds = [_hash_of(self._settings.seed, step, places.start + int(i)) for i in np.flatnonzero(draws.noise)]
            return change.add_noise(part, sigma, seeds)

        for amounts, changed in ((draws.blur, change.blur), (draws.noise, noisy), (draws.jpeg, self._jpeg)):
            if len(at := np.flatnonzero(amounts)):
                index, amount = self._there(at), self._there(amounts[at].astype(np.float32))
                x = x.index_copy(0, index, changed(x.index_select(0, index), amount))
        images = x.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return self._covered(images, labels, draws.cover)

    def cut(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Zoomed, cropped and mirrored: float [n, 3, h, w] of whole levels, and uint8 [n, h, w]."""
        data, crop = self._data, self._settings.augmentation.crop
        native = np.stack([data.width[draws.sample], data.height[draws.sample]], axis=1)
        factor = native / draws.zoomed  # above 1: it shrinks
        shrinks = (factor.min(axis=1, keepdims=True) > 1) & (factor.max(axis=1, keepdims=True) > _BILINEAR_TO)
        spread = np.where(shrinks, factor / 4, 0)
        table = np.concatenate([native, draws.zoomed, draws.corner, draws.flip[:, None]], axis=1)
        whole = self._there(np.concatenate([table, data.first[draws.sample][:, None]], axis=1))  # int64 [n, 8]
        first = whole[:, 7, None, None]
        positions, nearest, inside = [], [], []
        for axis, length in enumerate((crop.width, crop.height)):
            at = torch.arange(length, device=self._device).expand(len(whole), -1)  # [n, length]
            if axis == 0:
                at = torch.where(whole[:, 6, None] > 0, length - 1 - at, at)
            at = at + whole[:, 4 + axis, None]
            size, zoomed = whole[:, axis, None], whole[:, 2 + axis, None]
            inside.append(at < zoomed)
            step = ((size << 16) + zoomed // 2) // zoomed  # as OpenCV's INTER_NEAREST_EXACT counts
            nearest.append(((step * at + step // 2 - size % 2) >> 16).minimum(size - 1))
            positions.append(((2 * at + 1) * size).float() / (2 * zoomed) - 0.5)
        width, height = whole[:, 0], whole[:, 1]
        index = first + nearest[1][:, :, None] * width[:, None, None] + nearest[0][:, None, :]
        within = inside[1][:, :, None] & inside[0][:, None, :]
        labels = torch.where(within, data.labels[index], UNLABELED)
        steps = self._there(spread.astype(np.float32))
        taps = [(-1, -1), (-1, 1), (1, -1), (1, 1)] if shrinks.any() else [(0, 0)]
        total = torch.zeros((*labels.shape, 3), device=self._device)
        for right, down in taps:
            x = positions[0] + right * steps[:, 0, None]
            y = positions[1] + down * steps[:, 1, None]
            total += self._bilinear(x, y, width, height, first)
        pixels = change.rounded(total / len(taps)).permute(0, 3, 1, 2)
        return torch.where(within[:, None], pixels, float(PADDING_GRAY)), labels

    def _bilinear(self, x: Tensor, y: Tensor, width: Tensor, height: Tensor, first: Tensor) -> Tensor:
        """Float [n, h, w, 3] at float columns [n, w] and rows [n, h]; beyond the edge as at the edge."""
        left, above = x.floor(), y.floor()
        to_right, to_below = (x - left)[:, None, :, None], (y - above)[:, :, None, None]
        columns = [(left.long() + i).clamp(min=0).minimum(width[:, None] - 1) for i in (0, 1)]
        rows = [(above.long() + i).clamp(min=0).minimum(height[:, None] - 1) for i in (0, 1)]
        lines = []
        for row in rows:
            begin = first + row[:, :, None] * width[:, None, None]
            one, two = (self._data.pixels[begin + column[:, None, :]].float() for column in columns)
            lines.append(one + (two - one) * to_right)
        return lines[0] + (lines[1] - lines[0]) * to_below

    def _covered(self, images: Tensor, labels: Tensor, covers: Integers) -> tuple[Tensor, Tensor]:
        at = np.flatnonzero(covers[:, 1])
        if self._textures is None or not len(at):
            return images, labels
        rest, number = np.divmod(covers[at, 4], _TEXTURES)
        order, mirror = np.divmod(rest, 4)
        index = self._there(at)
        textures = self._textures.index_select(0, self._there(number))
        turn = self._there(mirror)[:, None, None, None]
        textures = torch.where(turn % 2 == 1, textures.flip(2), textures)
        textures = torch.where(turn >= 2, textures.flip(1), textures)
        channels = self._there(np.array(_ORDERS, np.int64)[order])[:, None, None, :].expand(textures.shape)
        boxes = self._there(covers[at, :4])
        images_under, labels_under = change.cover(
            images.index_select(0, index), labels.index_select(0, index), textures.gather(3, channels), boxes, UNKNOWN
        )
        return images.index_copy(0, index, images_under), labels.index_copy(0, index, labels_under)

    def _there(self, values: NDArray[np.generic]) -> Tensor:
        """A small table on the device, without waiting for it."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _hash_of(*numbers: int) -> int:
    """A seed of 63 bits for a generator that takes one number."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
