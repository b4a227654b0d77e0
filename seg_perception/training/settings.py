"""Everything a training run depends on; config/train/*.yaml are examples.

The resolved settings are stored with the run, so that a run can be repeated from its own folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.files import DEFAULT_WEIGHTS
from seg_perception.core.resizing import check_multiple
from seg_perception.core.settings import FORMERLY
from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings

if TYPE_CHECKING:
    from seg_perception.networks.base import SegmentationNetwork


def _check(*faults: str | None) -> None:
    found = [fault for fault in faults if fault]
    if found:
        raise SettingsError("\n".join(found))


def _unless(accepted: bool, fault: str) -> str | None:
    return None if accepted else fault


def _refusal(attempt: Callable[[], object]) -> str | None:
    """What an attempt is refused with; None if it is not."""
    try:
        attempt()
    except SettingsError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Which network, and what it starts from.

    Attributes:
        name: registry name.
        options: constructor options.
        start: "random"; the name of public weights that the network knows ("imagenet"); or "driving",
            the weights that this package ships.
        checkpoint: start from the weights of this earlier run; overrides `start`.
        fresh_head: leave the layers that give the scores random, to go on from weights of other classes.
        fresh_layers: other submodules that begin as they are built, among them those that the earlier
            weights lack.
        narrowed: the earlier weights are of a wider network of this name: of its channels, the strongest are kept.
        frozen_stages: the first so many encoder stages (with the stem) stay as they start.
        freeze_batch_norm: keep every BatchNorm's statistics; needed for runs that must not depend
            on how a batch is split over processes.
    """

    name: str = "efficientnet_ladder"
    options: Mapping[str, Any] = field(default_factory=dict)
    start: str = "random"
    checkpoint: Path | None = None
    fresh_head: bool = False
    fresh_layers: tuple[str, ...] = ()
    narrowed: bool = False
    frozen_stages: int = 0
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        _check(
            *self._network_faults(),
            _unless(self.frozen_stages >= 0, f"frozen_stages: {self.frozen_stages} is below 0"),
            *(
                _unless(
                    not getattr(self, name) or self.earlier_weights is not None,
                    f"{name}: needs a checkpoint, or start: driving",
                )
                for name in ("fresh_head", "fresh_layers", "narrowed")
            ),
        )

    def _network_faults(self) -> Iterator[str]:
        """Builds the network without memory for its weights: what it takes, only itself can say."""
        from seg_perception.networks import networks

        if self.name not in networks():
            yield f"name: no network {self.name!r}; known: {', '.join(networks())}"
            return
        starts = ("random", "driving", *networks()[self.name].start_weights)
        if self.start not in starts:
            yield f"start: {self.name!r} has no {self.start!r}; known: {', '.join(starts)}"
        try:
            network = self.outline()
        except SettingsError as error:
            yield f"options: {error}"
            return
        if self.frozen_stages >= 0 and (fault := _refusal(lambda: network.first_stages(self.frozen_stages))):
            yield f"frozen_stages: {fault}"
        if self.narrowed and (fault := _refusal(network.channel_groups)):
            yield f"narrowed: {fault}"
        if fault := _refusal(lambda: network.prefixes(self.fresh_layers, f"{self.name!r}")):
            yield f"fresh_layers: {fault}"

    def outline(self) -> SegmentationNetwork:
        """The network without its weights: shapes only.

        Raises:
            SettingsError: unknown name or options.
        """
        import torch

        from seg_perception.networks import build_network

        with torch.device("meta"):
            return build_network(self.name, 2, **self.options)

    @property
    def earlier_weights(self) -> Path | None:
        """The weights file of the run to go on from, if there is one."""
        if self.checkpoint is not None:
            return self.checkpoint
        return DEFAULT_WEIGHTS if self.start == "driving" else None


_SHARES = ("rare", "flip", "brightness", "contrast", "saturation", "color_cast", "blur", "noise", "jpeg", "unknown")


@dataclass(frozen=True, slots=True)
class AugmentationSettings:
    """Random changes to a training sample.

    Attributes:
        crop: size of the crops the network sees.
        scale: range of the random zoom, relative to the size at which the network is deployed.
        aspect: greatest change of the proportions, as a factor.
        rare: probability that a crop is one around a pixel of one of the `rare_classes`, each of those
            that the image holds as often.
        rare_classes: their names.
        flip: probability of a mirror image.
        brightness, contrast, saturation: greatest relative change.
        gamma: greatest factor of a random gamma.
        color_cast: greatest relative gain of one channel (color temperature).
        blur, noise, jpeg: probability of each.
        unknown: probability that a crop is covered, in part or as a whole, by a texture of no driving scene,
            where the network then learns to be unsure.
    """

    crop: Size = Size(448, 256)
    scale: tuple[float, float] = (0.6, 1.8)
    aspect: float = 1.15
    rare: float = 0.0
    rare_classes: tuple[str, ...] = ()
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    gamma: float = 1.4
    color_cast: float = 0.1
    blur: float = 0.1
    noise: float = 0.1
    jpeg: float = 0.1
    unknown: float = 0.0

    def __post_init__(self) -> None:
        _check(
            _unless(0 < self.scale[0] <= self.scale[1], f"scale: {self.scale} must be two rising values above 0"),
            _unless(self.aspect >= 1, f"aspect: {self.aspect} must be at least 1"),
            _unless(self.gamma >= 1, f"gamma: {self.gamma} must be at least 1"),
            _unless(not self.rare or len(self.rare_classes) > 0, "rare_classes: rare needs at least one"),
            *(
                _unless(0 <= getattr(self, name) <= 1, f"{name}: {getattr(self, name)} is not in 0 to 1")
                for name in _SHARES
            ),
        )


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Cross-entropy over labeled pixels.

    Attributes:
        class_weights: a factor for each class by name; the others have 1. Empty: the plain mean.
        auxiliary: weight of the loss on a network's auxiliary scores.
        hard_pixels: share of the pixels, those of highest loss, that count (1: all).
        lovasz: weight of the Lovasz-Softmax loss, which stands for the IoU itself (0: none).
    """

    class_weights: Mapping[str, float] = field(default_factory=dict)
    auxiliary: float = 0.4
    hard_pixels: float = 1.0
    lovasz: float = 0.0

    def __post_init__(self) -> None:
        _check(
            _unless(0 < self.hard_pixels <= 1, f"hard_pixels: {self.hard_pixels} is not above 0 and at most 1"),
            _unless(self.auxiliary >= 0, f"auxiliary: {self.auxiliary} is below 0"),
            _unless(self.lovasz >= 0, f"lovasz: {self.lovasz} is below 0"),
            *(
                _unless(weight >= 0, f"class_weights.{name}: {weight} is below 0")
                for name, weight in self.class_weights.items()
            ),
        )


@dataclass(frozen=True, slots=True)
class DistillationSettings:
    """Learn what other networks answer, beside the labels (Hinton, Vinyals and Dean, arXiv:1503.02531).

    Attributes:
        teachers: weights files of runs with the same classes, or "driving" for the weights that this package ships;
            their probabilities are averaged.
        temperature: scores are divided by it on both sides, which shows more of the unlikely classes.
        weight: of the divergence from the teachers, over all pixels, labeled or not; beside 1 for the labels.
        relations: weight of the divergence between how alike the teachers find places of all images of a batch, and how
            alike the student does, by the features from which each scores (Yang et al., CIRKD, arXiv:2204.06986).
        cache: folder that keeps the teachers' answers on whole images, by the images' and teachers' content, for runs
            whose crops are cut by workers: each image is answered once, before the first step, and not once a crop.
        cache_gigabytes: most that a run may keep there.
    """

    teachers: tuple[Path, ...] = ()
    temperature: float = 1.0
    weight: float = 1.0
    relations: float = 0.0
    cache: Path | None = None
    cache_gigabytes: float = 2.0

    def __post_init__(self) -> None:
        _check(
            _unless(self.temperature > 0, f"temperature: {self.temperature} must be above 0"),
            _unless(self.weight >= 0, f"weight: {self.weight} is below 0"),
            _unless(self.relations >= 0, f"relations: {self.relations} is below 0"),
            _unless(not self.relations or len(self.teachers) > 0, "relations: needs teachers"),
            _unless(self.cache is None or len(self.teachers) > 0, "cache: needs teachers"),
            _unless(self.cache is None or not self.relations, "cache: keeps no features, which relations need"),
            _unless(self.cache_gigabytes >= 0, f"cache_gigabytes: {self.cache_gigabytes} is below 0"),
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The teachers' weights files."""
        return tuple(DEFAULT_WEIGHTS if path == Path("driving") else path for path in self.teachers)


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """AdamW with a linear warm-up and a polynomial decay.

    Attributes:
        learning_rate: peak, for everything but the encoder.
        encoder_factor: the encoder's learning rate relative to that.
        weight_decay: on convolution weights only.
        warmup_steps: steps of linear rise.
        decay_power: exponent of the fall to zero at the last step.
        ema_decay: of the averaged copy of the weights, which is validated and exported; 0: no copy.
    """

    learning_rate: float = 1e-3
    encoder_factor: float = 0.3
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    decay_power: float = 0.9
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        _check(
            _unless(self.learning_rate > 0, f"learning_rate: {self.learning_rate} must be above 0"),
            *(
                _unless(getattr(self, name) >= 0, f"{name}: {getattr(self, name)} is below 0")
                for name in ("encoder_factor", "weight_decay", "warmup_steps", "decay_power")
            ),
            _unless(0 <= self.ema_decay < 1, f"ema_decay: {self.ema_decay} is not at least 0 and below 1"),
        )


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """One training run.

    Attributes:
        name: of the model; the run's folder is `output`/`name`.
        train, validation: datasets; all must map to one label set. Validation may be empty.
        data_root: folder that the datasets' roots are relative to.
        output: folder of the runs.
        network, augmentation, loss, distillation, optimizer: tables of their own.
        deployed_size: pixel budget at which the network will run; the model card says the nearest size that the network
            takes.
        steps: optimizer steps of the whole run.
        batch_size: crops of one step over all processes and accumulation rounds.
        accumulation: forward and backward passes a step; divides batch_size / processes.
        validate_every, checkpoint_every: in steps; the last step always does both.
        seed: of everything random; a run on the CPU repeats exactly.
        data_on: where crops are cut and changed. "workers": by processes on the CPU. "device": in whole batches on the
            device that trains, in whose memory all data lies decoded. "auto": there on CUDA, if it fits into
            `cache_gigabytes`; else by workers. Both draw from the same distribution, but not the same crops.
        workers: processes that read and augment.
        cache: keep decoded samples in each worker's memory.
        cache_gigabytes: of each worker, where what does not fit is read anew each time; or on the device.
        precision: "fp32"; or autocast to "bf16", or to "fp16" with scaled gradients, for GPUs without bf16.
        compile: use torch.compile, on CUDA with its CUDA graphs; where that fails, the run says so and goes on without.
        device: "auto" takes CUDA when there is a GPU.
        data_notes, license, limits: go to the model card.
    """

    name: str
    train: tuple[DatasetSettings, ...]
    validation: tuple[DatasetSettings, ...] = ()
    data_root: Path = Path()
    output: Path = Path("runs")
    network: NetworkSettings = field(default_factory=NetworkSettings)  # built when asked for: it imports PyTorch
    augmentation: AugmentationSettings = AugmentationSettings()
    loss: LossSettings = LossSettings()
    distillation: DistillationSettings = DistillationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    deployed_size: Size = Size(480, 352)
    steps: int = 1000
    batch_size: int = 8
    accumulation: int = 1
    validate_every: int = 500
    checkpoint_every: int = 100
    seed: int = 1
    data_on: Literal["auto", "workers", "device"] = "auto"
    workers: int = 1
    cache: bool = True
    cache_gigabytes: float = 4.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data_notes: tuple[str, ...] = ()
    license: str = field(default="", metadata={FORMERLY: "licence"})
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulation", "validate_every", "checkpoint_every")
        _check(
            _unless(
                self.name not in ("", ".", "..") and not set(self.name) & set("/\\\0"),
                f"name: {self.name!r} cannot name a folder",
            ),
            _unless(len(self.train) > 0, "train: at least one dataset is needed"),
            self._crop_fault(),
            _unless(
                self.distillation.cache is None or self.data_on != "device",
                "distillation.cache: is for crops that workers cut; write data_on: workers, or auto",
            ),
            *(
                _unless(
                    not one.unlabeled or len(self.distillation.teachers) > 0,
                    f"train: {one.root} is unlabeled: only distillation.teachers can say what is there",
                )
                for one in self.train
            ),
            *(_unless(not one.unlabeled, f"validation: {one.root} is unlabeled") for one in self.validation),
            _unless(self.seed >= 0, f"seed: {self.seed} is below 0"),
            _unless(self.cache_gigabytes >= 0, f"cache_gigabytes: {self.cache_gigabytes} is below 0"),
            _unless(self.workers >= 0, f"workers: {self.workers} is below 0"),
            *(
                _unless(getattr(self, name) >= 1, f"{name}: {getattr(self, name)} must be at least 1")
                for name in positive
            ),
        )

    def _crop_fault(self) -> str | None:
        try:
            check_multiple(self.augmentation.crop, self.network.outline().size_multiple, self.network.name, "crop")
        except InputError as error:
            return f"augmentation.crop: {error}"
        return None

    @property
    def run_folder(self) -> Path:
        return self.output / self.name
