"""Trains a network: the loop, top to bottom, and the steps that fit a given time."""

from __future__ import annotations

import math
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.settings import from_mapping
from seg_perception.core.stopping import InterruptBetweenSteps
from seg_perception.evaluation import evaluate
from seg_perception.networks import build_network, networks
from seg_perception.networks.base import SegmentationNetwork, TorchEngine, narrowed
from seg_perception.segmenter import Segmenter
from seg_perception.training import checkpoint
from seg_perception.training.checkpoint import MAX_STEPS, ResumeState
from seg_perception.training.data import (
    DataRecord,
    RunData,
    demand_shared_memory,
    look_at_all,
    micro_batch_size,
    open_run_data,
    trained_on_too,
    worker_fault,
)
from seg_perception.training.distillation import open_teachers
from seg_perception.training.loss import LossModule, divisors
from seg_perception.training.optimization import (
    AveragedNetwork,
    CompiledOrNot,
    LateLosses,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)
from seg_perception.training.resident import lives_on_device, open_batches
from seg_perception.training.run_folder import RESUME_FILE, RunFolder
from seg_perception.training.settings import NetworkSettings, TrainSettings

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def run_training(settings: TrainSettings) -> Path:
    """Train one network; where the run's folder holds a `last.pt`, go on from there, exactly.

    Under torchrun it joins the process group; rank 0 writes.

    Returns:
        The weights file to export: best on validation data, or the last where there is none.

    Raises:
        SettingsError, DatasetError: before anything is written; or memory ran out.
        TrainingDivergedError: the loss became infinite or NaN.
    """
    rank, world = _join_process_group(settings)
    try:
        with ExitStack() as until_the_end:
            return _train(settings, rank, world, until_the_end)
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            f"batch_size: {settings.batch_size} crops of {settings.augmentation.crop} do not fit into the device's "
            "memory; lower it, or raise accumulation"
        ) from error
    except RuntimeError as error:
        if fault := worker_fault(str(error), settings.workers):
            # as long as these frames hold the loader, PyTorch raises it again whenever any child process ends
            traceback.clear_frames(error.__traceback__)
            raise SettingsError(fault) from error
        raise
    finally:
        if world > 1:
            dist.destroy_process_group()


def _join_process_group(settings: TrainSettings) -> tuple[int, int]:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    device = _device(settings)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # the others wait here while rank 0 validates
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return dist.get_rank(), world


def _device(settings: TrainSettings) -> torch.device:
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingsError("device: 'cuda' was asked for, but PyTorch sees no CUDA device; write 'auto' or 'cpu'")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _train(settings: TrainSettings, rank: int, world: int, until_the_end: ExitStack) -> Path:
    device = _device(settings)
    torch.manual_seed(settings.seed)
    micro_batch = micro_batch_size(settings, world)  # refused before any work, as what follows
    if not lives_on_device(settings, device):
        demand_shared_memory(settings, micro_batch)
    data = open_run_data(settings)
    label_set = data.label_set

    network, history = _start_network(settings.network, len(label_set))
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedNetwork(network, settings.optimizer.ema_decay)
    optimizer = build_optimizer(network, settings.optimizer)
    autocast = _AUTOCAST[settings.precision]
    scaler = torch.amp.GradScaler(device.type, enabled=autocast == torch.float16)
    class_weights = _class_weights(settings, label_set, device)
    module: nn.Module = _loss_module(settings, network, class_weights, label_set, device)
    without_exchange: Callable[[], AbstractContextManager[None]] = nullcontext
    if world > 1:
        module = DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)
        without_exchange = module.no_sync
    if settings.compile:
        module = CompiledOrNot(module, device, settings.accumulation)

    run = until_the_end.enter_context(closing(RunFolder(settings, label_set, history, writes=rank == 0)))
    work = _Work(settings, run, data, data.records(), network, average.network, optimizer, scaler)
    first_step, best_score, validated = work.resume(device)
    work.look_at_data(rank)
    _check_same_everywhere(first_step, run, device, world)
    batches, told = open_batches(settings, data.train, device, first_step, rank, world)
    until_the_end.callback(batches.close)  # and with it the processes that read the data
    run.open_logs(first_step)
    run.announce(first_step, device, network, data, told)
    run.remember_looked_at(work.records)
    if not validated and rank == 0:  # the run ended between a checkpoint and the validation that was due
        best_score = work.validate(first_step, best_score)
        work.save(first_step, best_score, validated=True)
    steps = tqdm(range(first_step, settings.steps), "train", settings.steps, initial=first_step, disable=rank > 0)
    started, crops_seen = time.monotonic(), 0
    losses = LateLosses(run)
    _set_training_mode(network, settings.network)
    ending = until_the_end.enter_context(InterruptBetweenSteps(held=world == 1))  # else each would end at another
    for step in steps:
        rate = learning_rate(step, settings.steps, settings.optimizer)
        set_learning_rate(optimizer, rate)
        micro_batches = [
            tuple(tensor.to(device, non_blocking=True) for tensor in batch)
            for batch in islice(batches, settings.accumulation)
        ]
        divisor = _global_divisors((batch[1] for batch in micro_batches), class_weights, device, world)
        loss_sums = torch.zeros(2, device=device)
        for round_, batch in enumerate(micro_batches, start=1):
            # processes exchange gradients once a step, in the last round
            with nullcontext() if round_ == settings.accumulation else without_exchange():
                with torch.autocast(device.type, autocast, enabled=autocast is not None):
                    parts = module(*batch)
                # DDP averages gradients over processes; the sum over all pixels is wanted
                scaler.scale((parts * (world / divisor)).sum()).backward()
            loss_sums += parts.detach()
        _add_up(loss_sums, world)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)

        done = step + 1
        asked_to_end = ending.asked
        crops_seen += settings.batch_size
        per_second = crops_seen / (time.monotonic() - started)
        losses.add(done, (loss_sums / divisor).sum(), rate, per_second)
        last = done == settings.steps
        due = rank == 0 and bool(data.validation) and (last or done % settings.validate_every == 0)
        keep = last or asked_to_end or done % settings.checkpoint_every == 0
        if (loss := losses.read(all_of_them=keep or due)) is not None:
            steps.set_postfix_str(f"loss {loss:.3f}, {per_second:.1f} crops/s", refresh=False)
        if keep:  # before validating, which can fail
            work.save(done, best_score, validated=not due)
        if asked_to_end:
            steps.close()
            raise KeyboardInterrupt(
                f"{settings.run_folder}: {done} of {settings.steps} steps are saved; start it again to go on"
            )
        if due:
            with ending.at_once():
                best_score = work.validate(done, best_score)
            _set_training_mode(network, settings.network)  # without averaged weights, this network was validated
            if keep:
                work.save(done, best_score, validated=True)
    return run.weights_file("best" if best_score > -math.inf else "last")


@dataclass(frozen=True, slots=True)
class _Work:
    """What a run reads and writes between its steps."""

    settings: TrainSettings
    run: RunFolder
    data: RunData
    records: tuple[DataRecord, ...]
    network: SegmentationNetwork
    average: SegmentationNetwork
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def resume(self, device: torch.device) -> tuple[int, float, bool]:
        """Load the state of the last checkpoint, if there is one: its step, the best score, whether it was validated.

        Raises:
            SettingsError: other settings or data than the run began with.
            ModelError: it is damaged.
        """
        run, last = self.run, self.settings.steps
        if not run.resume_file.exists():
            return 0, -math.inf, True
        state = ResumeState.load(run.resume_file, device)
        run.check_same_settings(state)
        run.check_same_data(state, self.records)
        run.check_same_teachers(state)
        state.restore(self.network, self.average, self.optimizer, self.scaler, str(run.resume_file))
        if state.step > last:
            raise ModelError(f"{run.resume_file}: step {state.step} of a run of {last} steps; delete it to start anew")
        if state.step == last and state.validated:
            tqdm.write(
                f"{self.settings.run_folder}: already finished at step {last}; nothing was trained. To go on from its "
                f"weights, start a run of another name with network.checkpoint: {run.weights_file('last')}"
            )
        return state.step, state.best_score, state.validated

    def look_at_data(self, rank: int) -> None:
        """Read every file once, in one process, unless an earlier start of this run has.

        Raises:
            DatasetError: all faults of all datasets.
        """
        if rank == 0:
            known = self.run.looked_at(self.records)
            look_at_all([dataset for dataset, seen in zip(self.data.all, known, strict=True) if not seen])
            for remark in () if all(known) else trained_on_too(self.data):
                tqdm.write(remark)

    def save(self, done: int, best_score: float, validated: bool) -> None:
        self.run.save_weights("last", self.average, self.run.info(done, ()))
        self.run.save_resume_state(
            done, best_score, self.network, self.average, self.optimizer, self.scaler, self.records, validated
        )

    def validate(self, done: int, best_score: float) -> float:
        """Score the averaged network, and keep its weights if they are the best; the best score so far."""
        card = self.run.info(done, ()).model_card(self.average, version="training", weights_sha256="")
        segmenter = Segmenter(TorchEngine(self.average, card, autocast=_AUTOCAST[self.settings.precision]))
        evaluations = [evaluate(dataset, segmenter) for dataset in self.data.validation]
        self.run.log_validation(done, evaluations)
        self.run.log_pictures(done, self.data.validation, segmenter)
        score = sum(e.scores.mean_iou for e in evaluations) / len(evaluations)
        if score > best_score:
            self.run.save_weights("best", self.average, self.run.info(done, evaluations))
        return max(score, best_score)


def _start_network(
    settings: NetworkSettings, num_classes: int
) -> tuple[SegmentationNetwork, checkpoint.CheckpointInfo | None]:
    """The network as it starts, and the run whose weights it goes on from, if any."""
    network = build_network(settings.name, num_classes, **settings.options)
    history = None
    if settings.earlier_weights is not None:
        history = _load_earlier_weights(network, settings, settings.earlier_weights, num_classes)
    elif settings.start != "random":
        networks()[settings.name].start_weights[settings.start](network)
    for part in network.first_stages(settings.frozen_stages):
        part.requires_grad_(False)
    return network, history


def _load_earlier_weights(
    network: SegmentationNetwork, settings: NetworkSettings, path: Path, num_classes: int
) -> checkpoint.CheckpointInfo:
    weights, info = checkpoint.load_weights(path)
    if info.network != settings.name:
        raise SettingsError(f"network.name: {path} holds a {info.network!r}, not a {settings.name!r}")
    if not settings.fresh_head and len(info.label_set) != num_classes:
        raise SettingsError(
            f"{path} gives {len(info.label_set)} classes, the training data {num_classes}; "
            "set network.fresh_head to true to start with a new last layer"
        )
    fresh = (*settings.fresh_layers, *(network.score_layers if settings.fresh_head else ()))
    prefixes = network.prefixes(fresh, f"network.fresh_layers: {settings.name!r}")
    if settings.narrowed:
        weights = narrowed(weights, network.channel_groups(), network.state_dict(), str(path))
    kept = {name: value for name, value in weights.items() if not name.startswith(prefixes)}
    begun = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    checkpoint.load_strictly(network, kept | begun, str(path))
    return info


def _check_same_everywhere(first_step: int, run: RunFolder, device: torch.device, world: int) -> None:
    if world == 1:
        return
    bounds = torch.tensor([first_step, -first_step], device=device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    if bounds[0] != -bounds[1]:
        raise SettingsError(
            f"{run.resume_file}: the processes would start at steps {-bounds[1]} to {bounds[0]}; "
            "the output folder must be one that all machines share"
        )


def _loss_module(
    settings: TrainSettings,
    network: SegmentationNetwork,
    class_weights: Tensor | None,
    label_set: LabelSet,
    device: torch.device,
) -> LossModule:
    teaching = settings.distillation
    live = () if teaching.cache is not None else teaching.files
    teachers = open_teachers(live, teaching.temperature, label_set, teaching.relations > 0)
    return LossModule(
        network,
        class_weights,
        settings.loss.auxiliary,
        settings.loss.hard_pixels,
        settings.loss.lovasz,
        unknown=settings.augmentation.unknown > 0,
        teachers=None if teachers is None else teachers.to_device(device),
        distillation=teaching.weight,
        relations=teaching.relations,
        temperature=teaching.temperature,
    )


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


def _global_divisors(
    labels: Iterable[Tensor], class_weights: Tensor | None, device: torch.device, world: int
) -> Tensor:
    total = torch.stack([divisors(t, class_weights) for t in labels]).sum(dim=0).to(device)
    _add_up(total, world)
    return torch.where(total > 0, total, 1.0)


def _add_up(total: Tensor, world: int) -> None:
    """In place, over all processes."""
    if world > 1:
        dist.all_reduce(total)


_WARM_STEPS, _SHORT_STEPS, _MORE_STEPS = 1, 2, 20  # of the short runs that measure
_MEASURED_S = 3.0  # the longer one takes at least so much longer than the short one, or 20 steps are not enough
_RESERVED = 0.15  # of the time, for the last validation
_SAVE_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run fits its time.

    Attributes:
        settings: with the steps, and when to save.
        start_s: before the first step.
        step_s: one step; 0 where nothing was measured, as the run was planned when it began.
    """

    settings: TrainSettings
    start_s: float = 0.0
    step_s: float = 0.0

    def __str__(self) -> str:
        steps = self.settings.steps
        if not self.step_s:
            return f"{self.settings.run_folder} goes on to the {steps} steps that it was begun with, whatever they take"
        rate = self.settings.batch_size / self.step_s
        return (
            f"{rate:.0f} crops/s, {1 / self.step_s:.1f} steps/s after {self.start_s:.0f} s of start: "
            f"{steps} steps, saved every {self.settings.checkpoint_every}"
        )


def plan_run(
    settings: TrainSettings,
    minutes: float,
    clock: Callable[[], float] = time.monotonic,
    most_steps: int | None = None,
) -> Plan:
    """A training that fits a time: measure the machine, and set the steps; the files of measuring are thrown away.

    For a GPU that one has for ten minutes. Weights are written about twice a minute, so that what was trained is kept
    whatever happens. A run that was cut off goes on as it was planned.

    Args:
        settings: their steps, checkpoint_every and validate_every are replaced.
        minutes: for everything, the probes, the start and the validation included.
        most_steps: no more than these, even if more would fit.

    Raises:
        SettingsError: the time is too short for a run; or there are several processes, whose clocks differ.
    """
    if not 0 < minutes < math.inf:
        raise SettingsError(f"--minutes {minutes:g} is not accepted: it must be above 0")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("--minutes is for one process: each would plan by its own clock; give --steps")
    if (begun := _begun_as(settings)) is not None:
        return Plan(begun)
    began = clock()

    def left() -> float:
        return minutes * 60 - (clock() - began)

    def seconds(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            probe = replace(
                settings, name="probe", output=Path(folder), steps=steps, validation=(),
                checkpoint_every=steps, optimizer=replace(settings.optimizer, warmup_steps=0),
            )  # fmt: skip
            start = clock()
            try:
                run_training(probe)
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None  # nothing of a probe is kept
            return clock() - start

    def too_short(start_s: float, step_s: float) -> SettingsError:
        return SettingsError(
            f"--minutes {minutes:.2g} is too short here: {start_s + clock() - began:.0f} s go into probing and "
            f"starting, and a step takes {step_s:.2f} s"
        )

    seconds(_WARM_STEPS)  # what only a process's first run takes: kernels, a look at all files, the data on the device
    short = seconds(_SHORT_STEPS)
    if left() < 2 * short:
        raise too_short(0, short / _SHORT_STEPS)
    more = max(2, min(_MORE_STEPS, int(0.2 * left() / short * _SHORT_STEPS)))
    longer = seconds(_SHORT_STEPS + more) - short
    while longer < min(_MEASURED_S, 0.05 * left()) and more < (most_steps or MAX_STEPS):
        more *= 4
        longer = seconds(_SHORT_STEPS + more) - short
    step_s = max(1e-6, longer / more)
    start_s = max(0.0, short - _SHORT_STEPS * step_s)
    steps = min(int((left() * (1 - _RESERVED) - start_s) / step_s), most_steps or MAX_STEPS)
    if steps < 1:
        raise too_short(start_s, step_s)
    every = max(1, min(steps, round(_SAVE_EVERY_S / step_s)))
    warmup = min(settings.optimizer.warmup_steps, steps // 10)
    planned = replace(
        settings, steps=steps, checkpoint_every=every, validate_every=steps,
        optimizer=replace(settings.optimizer, warmup_steps=warmup),
    )  # fmt: skip
    return Plan(planned, start_s, step_s)


def _begun_as(settings: TrainSettings) -> TrainSettings | None:
    """These settings, planned as the run in their folder was when it began; None where there is none."""
    file = settings.run_folder / RESUME_FILE
    if not file.exists():
        return None
    state = ResumeState.load(file, torch.device("cpu"))
    if state.settings is None:
        return settings
    then = from_mapping(TrainSettings, state.settings, str(file))
    return replace(
        settings, steps=then.steps, checkpoint_every=then.checkpoint_every, validate_every=then.validate_every,
        optimizer=replace(settings.optimizer, warmup_steps=then.optimizer.warmup_steps),
    )  # fmt: skip
