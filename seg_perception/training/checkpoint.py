"""Checkpoints: atomically written, loaded without executing anything from them, and averaged.

A run's folder holds two kinds of file:

    last.pt             everything that resuming needs (tensors and plain values, weights_only)
    best.safetensors    the weights to deploy, with their CheckpointInfo as metadata
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from seg_perception.core.errors import ModelError, SegPerceptionError, SettingsError, first_of
from seg_perception.core.files import make_room_for, open_regular_file, write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.core.model_card import ModelCard
from seg_perception.core.resizing import network_size
from seg_perception.core.settings import FORMERLY, from_mapping, parse_json
from seg_perception.core.types import Precision, Size
from seg_perception.networks import build_network
from seg_perception.networks.base import SegmentationNetwork

_INFO_KEY = "seg_perception.checkpoint"

MAX_STEPS = 10**12
"""No run is longer: a number above is damage."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What the weights are and how they were made; becomes the model card at export.

    Attributes:
        name: of the run.
        network, options: how to build the network.
        label_set: the classes.
        deployed_size: the pixel budget.
        step: optimizer steps behind these weights.
        settings: the resolved settings of the run, as YAML values.
        settings_sha256: of the settings' canonical JSON.
        scores: dataset -> metric -> percent, on validation data.
        data_notes, license, limits: for the card.
    """

    name: str
    network: str
    options: Mapping[str, Any]
    label_set: LabelSet
    deployed_size: Size
    step: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_sha256: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    data_notes: tuple[str, ...] = ()
    license: str = field(default="", metadata={FORMERLY: "licence"})
    limits: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CheckpointInfo:
        """Parse.

        Raises:
            ModelError: a missing or wrong field.
        """
        try:
            return from_mapping(cls, parse_json(text, "the checkpoint's description"), "the checkpoint's description")
        except SegPerceptionError as error:
            raise ModelError(str(error)) from error

    def model_card(self, network: SegmentationNetwork, version: str, weights_sha256: str) -> ModelCard:
        """The card of an fp32 export of these weights."""
        run = {"steps": self.step, "settings_sha256": self.settings_sha256}
        told = ("seed", "batch_size", "precision", "average")
        run |= {key: self.settings[key] for key in told if key in self.settings}
        if network_settings := self.settings.get("network"):
            file = network_settings.get("checkpoint")  # its run and name: a card travels, folders do not
            run["start"] = "/".join(Path(file).parts[-2:]) if file else network_settings.get("start")
        if teachers := (self.settings.get("distillation") or {}).get("teachers"):
            run["teachers"] = ", ".join("/".join(Path(file).parts[-2:]) for file in teachers)
        return ModelCard(
            name=self.name,
            version=version,
            network=self.network,
            label_set=self.label_set,
            input_size=network_size(self.deployed_size, self.deployed_size, network.size_multiple),
            size_multiple=network.size_multiple,
            precision=Precision.FP32,
            weights_sha256=weights_sha256,
            data=self.data_notes,
            data_license=self.license,
            run=run,
            scores=self.scores,
            limits=self.limits,
        )


def save_weights(path: Path, weights: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Write the weights with their description as one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, save(tensors, metadata={_INFO_KEY: info.to_json()}))


def read_info(path: Path) -> CheckpointInfo:
    """The description of a weights file, without its weights.

    Raises:
        OSError: no such file (FileNotFoundError), or it cannot be read.
        ModelError: not a weights file of ours, or truncated.
    """
    return load_weights(path)[1]


def load_weights(path: Path) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """The weights by name, and their description.

    Raises:
        OSError: no such file (FileNotFoundError), or it cannot be read.
        ModelError: not a weights file of ours, or truncated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file, or truncated ({error})") from error
    if _INFO_KEY not in metadata:
        raise ModelError(f"{path}: no description inside; it was not written by 'seg-perception train'")
    return weights, CheckpointInfo.from_json(metadata[_INFO_KEY])


def load_network(path: Path) -> tuple[SegmentationNetwork, CheckpointInfo]:
    """Build the network of a weights file and load every weight into it.

    Raises:
        OSError: no such file (FileNotFoundError), or it cannot be read.
        ModelError: not a weights file of ours, or weights that do not fit the network exactly.
    """
    weights, info = load_weights(path)
    network = build_network(info.network, len(info.label_set), **info.options)
    load_strictly(network, weights, str(path))
    return network.eval(), info


def load_strictly(network: SegmentationNetwork, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights that match the network name by name and shape by shape.

    Raises:
        ModelError: any name is missing or unknown, or any shape differs.
    """
    try:
        network.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise ModelError(f"{source}: the weights do not fit the network: {error}") from error


def weights_sha256(path: Path) -> str:
    """Hex digest of the weights file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class ResumeState:
    """Everything that going on with a run needs; batches and random numbers follow from the step.

    Attributes:
        step: optimizer steps taken.
        best_score: of the validations so far, a fraction; -inf before the first.
        settings_sha256: of the settings that the run was last continued with.
        settings: those settings, as YAML values; None in runs begun before they were stored here.
        network, average: their state_dicts.
        optimizer: its state_dict.
        scaler: of the gradients' scale; empty but in fp16.
        data: what the datasets were (run_data.DataRecord, as plain values); None in runs begun before that.
        validated: whether the validation that is due after `step` was done.
        teachers: SHA-256 of each teacher's weights file, by its path; None in runs begun before that.
    """

    step: int
    best_score: float
    settings_sha256: str
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    settings: dict[str, Any] | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    data: list[dict[str, Any]] | None = None
    validated: bool = True
    teachers: dict[str, str] | None = None

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        buffer = io.BytesIO()
        torch.save({f.name: getattr(self, f.name) for f in fields(self)}, buffer)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, device: torch.device) -> ResumeState:
        """Read it back without executing code.

        Raises:
            InputError: no regular file.
            ModelError: truncated, or not the state of a run.
        """
        advice = "delete it to start anew"
        with open_regular_file(path) as file:
            try:
                state = torch.load(file, map_location=device, weights_only=True)
            except Exception as error:  # RuntimeError, UnpicklingError, EOFError ...; some texts advise to run its code
                why = "it is damaged, cut off, or no state of a run"
                raise ModelError(f"{path}: cannot resume from this file: {why}; {advice}") from error
        fault = "it holds no table" if not isinstance(state, dict) else _state_fault(cls, state)
        if fault is not None:
            raise ModelError(f"{path}: not the resume state of a run: {fault}; {advice}")
        return cls(**state)

    def restore(
        self,
        network: SegmentationNetwork,
        average: SegmentationNetwork,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        source: str,
    ) -> None:
        """Load it into what a run works with.

        Raises:
            ModelError: it does not fit.
        """
        load_strictly(network, self.network, source)
        load_strictly(average, self.average, source)
        try:
            optimizer.load_state_dict(self.optimizer)
            scaler.load_state_dict(self.scaler)
        except Exception as error:  # torch raises KeyError, ValueError, TypeError ...
            text = f"{type(error).__name__}: {error}"
            raise ModelError(
                f"{source}: the optimizer's state does not fit ({text}); delete it to start anew"
            ) from error


def _state_fault(cls: type[ResumeState], state: dict[Any, Any]) -> str | None:
    """What is wrong with the fields of a resume state; None if nothing is."""
    known = {f.name for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    if unknown := [str(name) for name in state if name not in known]:
        return f"unknown: {first_of(unknown)}"
    if missing := sorted(needed - set(state)):
        return f"missing: {', '.join(missing)}"
    step, best = state["step"], state["best_score"]
    if type(step) is not int or not 0 <= step <= MAX_STEPS:
        return f"step: {str(step)[:80]!r} is no number of steps from 0 to {MAX_STEPS}"
    if not isinstance(best, (int, float)) or not best <= 1:  # NaN, too
        return f"best_score: {str(best)[:80]!r} is no fraction"
    for name in ("network", "average"):
        weights = state[name]
        if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
            return f"{name}: a table of tensors is expected"
    expected = {"settings_sha256": str, "optimizer": dict, "scaler": dict, "validated": bool}
    for name, kind in expected.items():
        if not isinstance(state.get(name, kind()), kind):
            return f"{name}: {type(state[name]).__name__} is not accepted"
    tables = {"settings": dict, "teachers": dict, "data": list}
    if wrong := [name for name, kind in tables.items() if not isinstance(state.get(name), (kind, type(None)))]:
        return f"{', '.join(wrong)}: tables, and for data a list, are expected"
    return None


def average_weights(paths: Sequence[Path], shares: Sequence[float], out: Path, from_first: Sequence[str] = ()) -> None:
    """Write the weighted average of weights files of one network, which often scores better than each.

    Runs that went on from the same weights lie close enough for it (Wortsman et al., "Model soups",
    https://arxiv.org/abs/2203.05482). Statistics of batch normalization are averaged like weights.

    Args:
        paths: two files or more; the description of the first is kept, without its scores, and with what all were
            trained on and what that allows.
        shares: one for each file, above 0; only their proportions count.
        out: the file to write.
        from_first: submodules that are taken from the first file alone, such as one that the others never trained.

    Raises:
        OSError: a file is missing or cannot be read or written.
        InputError: `out` is one of them.
        ModelError: not a weights file of ours; or another network, other options or other classes than the first's.
        SettingsError: the shares do not fit the files, or a submodule is not known.
    """
    if len(paths) < 2 or len(shares) != len(paths) or not all(0 < share < math.inf for share in shares):
        raise SettingsError(
            f"{len(paths)} files and the shares {', '.join(f'{s:g}' for s in shares)}: "
            "an average needs two files or more, and for each a finite share above 0"
        )
    make_room_for(out, *paths)
    loaded = [load_weights(path) for path in paths]
    first = loaded[0][1]
    network = build_network(first.network, len(first.label_set), **first.options)
    for path, (weights, info) in zip(paths, loaded, strict=True):
        if _kind(info) != _kind(first):
            raise ModelError(
                f"{path} holds {_kind(info)}, {paths[0]} {_kind(first)}: only like networks can be averaged"
            )
        if info.label_set.names != first.label_set.names:
            raise ModelError(
                f"{path} has the classes {', '.join(info.label_set.names)}, {paths[0]} "
                f"{', '.join(first.label_set.names)}: only like networks can be averaged"
            )
        load_strictly(network, weights, str(path))
    kept = network.prefixes(from_first, repr(first.network))
    parts = [share / sum(shares) for share in shares]
    average = {
        name: value if name.startswith(kept) or not value.is_floating_point() else _mix(name, loaded, parts)
        for name, value in loaded[0][0].items()
    }
    notes = dict.fromkeys(note for _, info in loaded for note in info.data_notes)
    origin = ", ".join(f"{part:.3g} of {weights_sha256(path)[:8]}" for part, path in zip(parts, paths, strict=True))
    settings, allowed = {**first.settings, "average": origin}, joined_licenses(info.license for _, info in loaded)
    described = replace(first, scores={}, settings=settings, data_notes=tuple(notes), license=allowed)
    save_weights(out, average, described)


def joined_licenses(texts: Iterable[str]) -> str:
    """What all of them allow together: each once, whether alone or joined with others before."""
    return "; ".join(dict.fromkeys(part for text in texts for part in text.split("; ") if part))


def _kind(info: CheckpointInfo) -> str:
    options = ", ".join(f"{name}={value}" for name, value in sorted(info.options.items()))
    return f"{info.network} ({options}) for {len(info.label_set)} classes of {info.label_set.name}"


def _mix(name: str, loaded: Sequence[tuple[dict[str, Tensor], CheckpointInfo]], parts: Sequence[float]) -> Tensor:
    total = sum(weights[name].double() * part for (weights, _), part in zip(loaded, parts, strict=True))
    assert isinstance(total, Tensor)
    return total.to(loaded[0][0][name].dtype)
