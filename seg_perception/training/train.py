"""The training loop, top to bottom. `run_training(settings)` trains, or goes on where it stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from seg_perception.core.errors import SegPerceptionError, SettingsError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.settings import to_mapping
from seg_perception.datasets.registry import open_dataset
from seg_perception.evaluation import Evaluation, evaluate
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.networks.registry import build_network, networks
from seg_perception.segmenter import Segmenter
from seg_perception.training import checkpoint
from seg_perception.training.data import TrainingCrops, micro_batch_size, training_batches
from seg_perception.training.loss import LossModule, pixel_weight
from seg_perception.training.optimisation import AveragedNetwork, build_optimiser, learning_rate, set_learning_rate
from seg_perception.training.settings import NetworkSettings, TrainSettings
from seg_perception.training.torch_engine import TorchEngine


class TrainingDiverged(SegPerceptionError):
    """The loss is not a number any more."""


def run_training(settings: TrainSettings) -> Path:
    """Train one network; where the run's folder holds a `last.pt`, go on from there, exactly.

    Under torchrun it joins the process group; rank 0 writes.

    Returns:
        The weights file to export: best on validation data, or the last where there is none.

    Raises:
        SettingsError, DatasetError: before anything is written.
        TrainingDiverged: the loss became infinite or NaN.
    """
    rank, world = _join_process_group(settings)
    try:
        return _train(settings, rank, world)
    finally:
        if world > 1:
            dist.destroy_process_group()


def _join_process_group(settings: TrainSettings) -> tuple[int, int]:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("nccl" if _device(settings).type == "cuda" else "gloo")
        return dist.get_rank(), world
    return 0, 1


def _device(settings: TrainSettings) -> torch.device:
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingsError("device: 'cuda' was asked for, but PyTorch sees no CUDA device; write 'auto' or 'cpu'")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _train(settings: TrainSettings, rank: int, world: int) -> Path:
    device = _device(settings)
    torch.manual_seed(settings.seed)
    micro_batch_size(settings, world)  # refuse a batch that does not divide before any work
    crops = TrainingCrops(settings)
    label_set = crops.datasets[0].label_set
    validation = [open_dataset(s, settings.data_root) for s in settings.validation] if rank == 0 else []

    network = _start_network(settings.network, len(label_set)).to(device, memory_format=torch.channels_last)
    average = AveragedNetwork(network, settings.optimiser.ema_decay)
    optimiser = build_optimiser(network, settings.optimiser)
    class_weights = _class_weights(settings, label_set, device)
    module: nn.Module = LossModule(network, class_weights, settings.loss.auxiliary, settings.loss.hard_pixels)
    if world > 1:
        module = DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)
    if settings.compile:
        module = torch.compile(module)  # type: ignore[assignment]

    run = _Run(settings, label_set, writes=rank == 0)
    first_step, best_score = 0, -math.inf
    if run.resume_file.is_file():
        state = checkpoint.load_resume_state(run.resume_file, device)
        run.check_same_settings(state)
        checkpoint.load_strictly(network, state["network"], str(run.resume_file))
        checkpoint.load_strictly(average.network, state["average"], str(run.resume_file))
        optimiser.load_state_dict(state["optimiser"])
        first_step, best_score = state["step"], state["best_score"]
    run.open_logs(first_step)

    batches = iter(training_batches(crops, settings, first_step, rank, world))
    steps = tqdm(range(first_step, settings.steps), "train", settings.steps, initial=first_step, disable=rank > 0)
    started, crops_seen = time.monotonic(), 0
    for step in steps:
        _set_training_mode(network, settings.network)
        rate = learning_rate(step, settings.steps, settings.optimiser)
        set_learning_rate(optimiser, rate)
        micro_batches = [(i.to(device), t.to(device)) for i, t in islice(batches, settings.accumulation)]
        weight = _global_pixel_weight((t for _, t in micro_batches), class_weights, device, world)
        loss_sum = torch.zeros((), device=device)
        for images, labels in micro_batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                part = module(images, labels)
            # DDP averages gradients over processes; the sum over all pixels is wanted
            (part * (world / weight)).backward()
            loss_sum += part.detach()
        if world > 1:
            dist.all_reduce(loss_sum)
        loss = float(loss_sum / weight)
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss} at step {step}; lower the learning rate or use fp32")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(step)

        done = step + 1
        crops_seen += settings.batch_size
        per_second = crops_seen / (time.monotonic() - started)
        steps.set_postfix_str(f"loss {loss:.3f}, {per_second:.1f} crops/s", refresh=False)
        run.log_step(done, loss, rate, per_second)
        last = done == settings.steps
        if validation and (last or done % settings.validate_every == 0):
            evaluations = _validate(validation, average.network, run.info(done, ()), settings)
            run.log_validation(done, evaluations)
            score = sum(e.scores.mean_iou for e in evaluations) / len(evaluations)
            if score > best_score:
                best_score = score
                run.save_weights("best", average.network, run.info(done, evaluations))
        if last or done % settings.checkpoint_every == 0:
            run.save_weights("last", average.network, run.info(done, ()))
            run.save_resume_state(done, best_score, network, average.network, optimiser)
    run.close()
    return run.weights_file("best" if run.weights_file("best").is_file() else "last")


def _start_network(settings: NetworkSettings, num_classes: int) -> SegmentationNetwork:
    network = build_network(settings.name, num_classes, **settings.options)
    if settings.checkpoint is not None:
        earlier, info = checkpoint.load_network(settings.checkpoint)
        if info.network != settings.name:
            raise SettingsError(f"network.checkpoint: {settings.checkpoint} holds a {info.network!r}")
        checkpoint.load_strictly(network, earlier.state_dict(), str(settings.checkpoint))
    elif settings.start != "random":
        known = networks()[settings.name].start_weights
        if settings.start not in known:
            raise SettingsError(
                f"network.start: {settings.name!r} has no {settings.start!r}; known: {', '.join(('random', *known))}"
            )
        known[settings.start](network)
    for part in network.first_stages(settings.frozen_stages):
        part.requires_grad_(False)
    return network


def _set_training_mode(network: SegmentationNetwork, settings: NetworkSettings) -> None:
    network.train()
    frozen = [network] if settings.freeze_batch_norm else network.first_stages(settings.frozen_stages)
    for part in frozen:
        for layer in part.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()


def _class_weights(settings: TrainSettings, label_set: LabelSet, device: torch.device) -> Tensor | None:
    if not settings.loss.class_weights:
        return None
    weights = torch.ones(len(label_set), device=device)
    for name, value in settings.loss.class_weights.items():
        weights[label_set.id_of(name)] = float(value)
    return weights


def _global_pixel_weight(
    labels: Iterable[Tensor], class_weights: Tensor | None, device: torch.device, world: int
) -> Tensor:
    total = torch.stack([pixel_weight(t, class_weights) for t in labels]).sum().to(device)
    if world > 1:
        dist.all_reduce(total)
    return total.clamp(min=1)


def _validate(
    datasets: list[Any], network: SegmentationNetwork, info: checkpoint.CheckpointInfo, settings: TrainSettings
) -> list[Evaluation]:
    card = info.model_card(network, version="training", weights_sha256="")
    segmenter = Segmenter(TorchEngine(network, card, autocast=settings.precision == "bf16"))
    return [evaluate(dataset, segmenter) for dataset in datasets]


class _Run:
    """The run's folder: settings, logs and checkpoints. Only the writing process touches it."""

    def __init__(self, settings: TrainSettings, label_set: LabelSet, writes: bool) -> None:
        self._settings = settings
        self._label_set = label_set
        self._writes = writes
        self._resolved = to_mapping(settings)
        canonical = json.dumps(self._resolved, sort_keys=True)
        self._settings_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
        self._folder = settings.run_folder
        self.resume_file = self._folder / "last.pt"
        self._board: SummaryWriter | None = None

    def weights_file(self, which: str) -> Path:
        return self._folder / f"{which}.safetensors"

    def check_same_settings(self, state: dict[str, Any]) -> None:
        """Refuse to go on with other settings than the run began with.

        Raises:
            SettingsError: names what to do.
        """
        if state["settings_sha256"] != self._settings_sha256:
            raise SettingsError(
                f"{self._folder} holds a run with other settings (see its settings.yaml); "
                "restore them to resume, or choose another name or output"
            )

    def open_logs(self, first_step: int) -> None:
        """Start the logs, or cut them back to the step that the run resumes from."""
        if not self._writes:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "settings.yaml").write_text(yaml.safe_dump(self._resolved, sort_keys=False), encoding="utf-8")
        _begin_csv(self._folder / "steps.csv", ["step", "loss", "learning_rate"], first_step)
        names = ["step", "dataset", "mean_iou", "pixel_accuracy", *self._label_set.names]
        _begin_csv(self._folder / "validation.csv", names, first_step)
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=first_step)

    def log_step(self, step: int, loss: float, rate: float, per_second: float) -> None:
        if self._board is None:
            return
        _append_csv(self._folder / "steps.csv", [step, repr(loss), repr(rate)])
        self._board.add_scalar("loss", loss, step)
        self._board.add_scalar("learning rate", rate, step)
        self._board.add_scalar("crops per second", per_second, step)

    def log_validation(self, step: int, evaluations: list[Evaluation]) -> None:
        for e in evaluations:
            scores = e.scores
            row = [step, e.dataset, scores.mean_iou, scores.pixel_accuracy, *scores.iou]
            _append_csv(self._folder / "validation.csv", row)
            tqdm.write(f"step {step}: {e.dataset}: mean IoU {100 * scores.mean_iou:.2f}, road {100 * scores.iou[0]:.2f}")
            if self._board is not None:
                self._board.add_scalar(f"mean IoU/{e.dataset}", scores.mean_iou, step)

    def info(self, step: int, evaluations: Iterable[Evaluation]) -> checkpoint.CheckpointInfo:
        settings = self._settings
        return checkpoint.CheckpointInfo(
            name=settings.name,
            network=settings.network.name,
            options=settings.network.options,
            label_set=self._label_set,
            deployed_size=settings.deployed_size,
            step=step,
            settings=self._resolved,
            settings_sha256=self._settings_sha256,
            scores={e.dataset: e.percentages() for e in evaluations},
            data_notes=settings.data_notes,
            licence=settings.licence,
            limits=settings.limits,
        )

    def save_weights(self, which: str, network: SegmentationNetwork, info: checkpoint.CheckpointInfo) -> None:
        if self._writes:
            checkpoint.save_weights(self.weights_file(which), network.state_dict(), info)

    def save_resume_state(
        self,
        step: int,
        best_score: float,
        network: SegmentationNetwork,
        average: SegmentationNetwork,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        if not self._writes:
            return
        state = {
            "step": step,
            "best_score": best_score,
            "settings_sha256": self._settings_sha256,
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        checkpoint.save_resume_state(self.resume_file, state)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _begin_csv(path: Path, header: list[str], first_step: int) -> None:
    rows: list[list[str]] = []
    if path.is_file() and first_step > 0:
        with path.open(newline="", encoding="utf-8") as file:
            # a kill can leave rows past the checkpoint, and half a row at the end
            rows = [row for row in list(csv.reader(file))[1:] if len(row) == len(header) and int(row[0]) <= first_step]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _append_csv(path: Path, row: list[Any]) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)
