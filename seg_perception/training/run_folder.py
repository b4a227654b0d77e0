"""A run's folder: its settings, logs and checkpoints.

settings.yaml       the resolved settings: `seg-perception train --config` of it repeats the run
steps.csv           loss and learning rate of each step
validation.csv      scores of each validation, as fractions; nan for a class that is not in the truth
tensorboard/        both, as curves, and pictures of the first validation images
last.pt             what resuming needs
last.safetensors    the weights of the last checkpoint
best.safetensors    the weights that scored best on the validation data, if there is any
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.files import make_folder, write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.core.settings import from_mapping, load_settings, to_mapping
from seg_perception.datasets.base import Dataset
from seg_perception.evaluation import Evaluation
from seg_perception.evaluation.files import comparison
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.segmenter import Segmenter
from seg_perception.training import checkpoint
from seg_perception.training.checkpoint import ResumeState
from seg_perception.training.data import DataRecord, RunData, differences
from seg_perception.training.settings import TrainSettings

_PICTURES = 2  # of each validation set

_MAY_CHANGE = frozenset(
    {
        "data_root",
        "output",
        "workers",
        "cache",
        "cache_gigabytes",
        "checkpoint_every",
        "data_notes",
        "license",
        "limits",
    }
)
"""Settings that leave a run's numbers as they are, so that it may go on with others."""

RESUME_FILE = "last.pt"

_SOUND: set[tuple[Path, str]] = set()
"""Datasets that an earlier run of this process has looked at: the probes of a timed run, before the run itself."""


class RunFolder:
    """Reads and writes the folder of one run; only the writing process writes.

    What the run that it goes on from (`history`) and its teachers were trained on, and what that allows, is handed
    down to its weights.
    """

    def __init__(
        self, settings: TrainSettings, label_set: LabelSet, history: checkpoint.CheckpointInfo | None, writes: bool
    ) -> None:
        self._settings = settings
        self._label_set = label_set
        teachers = dict.fromkeys(settings.distillation.files)
        sources = ([history] if history else []) + [checkpoint.read_info(path) for path in teachers]
        notes = (*(note for source in sources for note in source.data_notes), *settings.data_notes)
        self._data_notes = tuple(dict.fromkeys(notes))
        self._license = checkpoint.joined_licenses((*(source.license for source in sources), settings.license))
        self._writes = writes
        self._resolved = to_mapping(settings)
        canonical = json.dumps(self._resolved, sort_keys=True)
        self._settings_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
        self._folder = settings.run_folder
        self.resume_file = self._folder / RESUME_FILE
        self._teachers = {str(path): checkpoint.weights_sha256(path) for path in teachers}
        self._looked_at = self._folder / ".data_looked_at"
        self._board: SummaryWriter | None = None
        self._lock: IO[str] | None = None

    def weights_file(self, which: str) -> Path:
        return self._folder / f"{which}.safetensors"

    def check_same_settings(self, state: ResumeState) -> None:
        """Refuse to go on with settings that would change the run; see `_MAY_CHANGE` for those that do not.

        Raises:
            SettingsError: names each difference, and what to do.
        """
        if state.settings_sha256 == self._settings_sha256:
            return
        stored = self._folder / "settings.yaml"
        if state.settings is None:
            earlier = load_settings(TrainSettings, stored)
        else:  # what was not a setting then has its default
            earlier = from_mapping(TrainSettings, state.settings, str(self.resume_file))
        different = list(_differences(to_mapping(earlier), self._resolved))
        if different:
            advice = "restore them to resume, or choose another name or output"
            if any(line.startswith("steps:") for line in different):
                advice += (
                    f"; for more steps, start a run of another name from this one's weights: network.checkpoint: "
                    f"{self.weights_file('last')}"
                )
            raise SettingsError(
                f"{self._folder} holds a run with other settings:\n  " + "\n  ".join(different) + f"\n{advice}"
            )

    def check_same_data(self, state: ResumeState, records: Sequence[DataRecord]) -> None:
        """Refuse to go on with other files or labels than the run began with.

        Raises:
            SettingsError: names each difference, and what to do.
        """
        if state.data is None:
            tqdm.write(f"{self.resume_file}: begun before data was remembered; it is not compared")
            return
        different = list(differences(state.data, records, str(self.resume_file)))
        if different:
            raise SettingsError(
                f"{self._folder} holds a run on other data:\n  " + "\n  ".join(different[:20]) + "\n"
                f"restore it to resume, or choose another name or output (network.checkpoint: "
                f"{self.weights_file('last')} starts from this run's weights)"
            )

    def check_same_teachers(self, state: ResumeState) -> None:
        """Refuse to go on with teachers of other weights than the run began with.

        Raises:
            SettingsError: names each, and what to do.
        """
        if state.teachers is None:  # begun before they were remembered
            return
        known = state.teachers.values()  # of files that may lie elsewhere by now
        if changed := [path for path, sha in self._teachers.items() if sha not in known]:
            raise SettingsError(
                f"distillation.teachers: {', '.join(changed)}: no longer what {self._folder} was taught by; restore "
                "the weights to resume, or choose another name or output"
            )

    def looked_at(self, records: Sequence[DataRecord]) -> list[bool]:
        """Which datasets' very files were found sound by an earlier start of this run, or run of this process."""
        try:
            whole = self._looked_at.read_text(encoding="utf-8") == _hash_of(records)
        except (OSError, ValueError):
            whole = False
        root = self._settings.data_root.absolute()
        return [whole or (root, _hash_of([record])) in _SOUND for record in records]

    def remember_looked_at(self, records: Sequence[DataRecord]) -> None:
        _SOUND.update((self._settings.data_root.absolute(), _hash_of([record])) for record in records)
        if self._writes:
            write_atomically(self._looked_at, _hash_of(records).encode())

    def open_logs(self, first_step: int) -> None:
        """Start the logs, or cut them back to the step that the run resumes from."""
        if not self._writes:
            return
        make_folder(self._folder)
        self._take_lock()
        for left_by_a_kill in self._folder.glob(".*.part"):
            left_by_a_kill.unlink()
        settings = yaml.safe_dump(self._resolved, sort_keys=False)
        write_atomically(self._folder / "settings.yaml", settings.encode())
        _begin_csv(self._folder / "steps.csv", ["step", "loss", "learning_rate"], first_step)
        names = ["step", "dataset", "mean_iou", "pixel_accuracy", *self._label_set.names]
        _begin_csv(self._folder / "validation.csv", names, first_step)
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=first_step + 1)

    def _take_lock(self) -> None:
        self._lock = (self._folder / ".lock").open("w", encoding="utf-8")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, whatever its end
        except OSError as error:
            raise SettingsError(
                f"{self._folder}: another process is training there; wait for it, or choose another name or output"
            ) from error

    def log_step(self, step: int, loss: float, rate: float, per_second: float) -> None:
        if self._board is None:
            return
        with self._naming_the_folder():
            _append_csv(self._folder / "steps.csv", [step, repr(loss), repr(rate)])
            self._board.add_scalar("loss", loss, step)
            self._board.add_scalar("learning rate", rate, step)
            self._board.add_scalar("crops per second", per_second, step)

    @contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        """A full disk is told with the place: neither the system nor TensorBoard say which file it was."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(self._folder)) from error

    def announce(
        self, first_step: int, device: torch.device, network: SegmentationNetwork, data: RunData, batches: str
    ) -> None:
        """Say what is about to be trained, on what, from where; `batches`: who makes them."""
        settings = self._settings
        if not self._writes or first_step == settings.steps:
            return
        parameters = sum(p.numel() for p in network.parameters())
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        frozen = "" if trained == parameters else f", {trained / 1e6:.2f} M of them trained"
        where = f"CPU, {torch.get_num_threads()} threads"
        if device.type == "cuda":
            where = str(torch.cuda.get_device_name(device))
        images = sum(map(len, data.train))
        held = f"{sum(map(len, data.validation))} to validate on" if data.validation else "none to validate on"
        start = settings.network.earlier_weights or settings.network.start
        begin = f"resuming at step {first_step}" if first_step else f"from the start (weights: {start})"
        tqdm.write(
            f"{settings.run_folder}: {settings.network.name}, {parameters / 1e6:.2f} M parameters{frozen}; on {where}, "
            f"{settings.precision}; {batches}\n{images} images of {', '.join(d.name for d in data.train)}; {held}; "
            f"{settings.steps} steps of {settings.batch_size} crops, {begin}"
        )

    def log_pictures(self, step: int, datasets: Sequence[Dataset], segmenter: Segmenter) -> None:
        """Image, truth, answer, what is wrong and confidence of the first validation images, for TensorBoard."""
        if self._board is None:
            return
        for dataset in datasets:
            for index in range(min(_PICTURES, len(dataset))):
                sample = dataset.load(index)
                picture = comparison(sample, segmenter.segment(sample.image), self._label_set)
                with self._naming_the_folder():
                    self._board.add_image(f"{dataset.name}/{sample.name}", picture, step, dataformats="HWC")

    def log_validation(self, step: int, evaluations: list[Evaluation]) -> None:
        for e in evaluations:
            scores = e.scores
            row = [step, e.dataset, scores.mean_iou, scores.pixel_accuracy, *scores.iou]
            with self._naming_the_folder():
                _append_csv(self._folder / "validation.csv", row)
            drivable = ((self._label_set.names[i], scores.iou[i]) for i in self._label_set.drivable_ids)
            listed = (("mean IoU", scores.mean_iou), *drivable)
            tqdm.write(f"step {step}: {e.dataset}: " + ", ".join(f"{name} {_percent(value)}" for name, value in listed))
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
            data_notes=self._data_notes,
            license=self._license,
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
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        data: Sequence[DataRecord],
        validated: bool,
    ) -> None:
        if not self._writes:
            return
        state = ResumeState(
            step=step,
            best_score=best_score,
            settings_sha256=self._settings_sha256,
            settings=self._resolved,
            network=network.state_dict(),
            average=average.state_dict(),
            optimizer=optimizer.state_dict(),
            scaler=scaler.state_dict(),
            data=[record.to_plain() for record in data],
            validated=validated,
            teachers=self._teachers,
        )
        state.save(self.resume_file)

    def close(self) -> None:
        try:
            if self._board is not None:
                with self._naming_the_folder():
                    self._board.close()
        finally:
            if self._lock is not None:
                self._lock.close()


def _percent(fraction: float) -> str:
    return "not in the truth" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _differences(then: Any, now: Any, where: str = "") -> Iterator[str]:
    """Each setting whose value is not what it was, by its full name."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now} - (_MAY_CHANGE if not where else set())):
            yield from _differences(then.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif then != now:
        yield f"{where}: {then!r} then, {now!r} now"


def _begin_csv(path: Path, header: list[str], first_step: int) -> None:
    rows: list[list[str]] = []
    if path.is_file() and first_step > 0:
        with path.open(newline="", encoding="utf-8") as file:
            # a kill can leave rows past the checkpoint, and half a row at the end
            rows = [row for row in _rows(path, file)[1:] if len(row) == len(header) and _step(path, row) <= first_step]
    table = io.StringIO()
    csv.writer(table).writerows([header, *rows])
    write_atomically(path, table.getvalue().encode())


def _rows(path: Path, file: IO[str]) -> list[list[str]]:
    try:
        return list(csv.reader(file))
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path}: not the log of a run ({error}); remove it, and it begins anew") from error


def _step(path: Path, row: list[str]) -> int:
    if re.fullmatch("[0-9]{1,13}", row[0]) is None:
        raise InputError(f"{path}: {row[0][:40]!r} is no step; remove the line, or the file, and it begins anew")
    return int(row[0])


def _hash_of(records: Sequence[DataRecord]) -> str:
    plain = [record.to_plain() for record in records]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _append_csv(path: Path, row: list[Any]) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)
