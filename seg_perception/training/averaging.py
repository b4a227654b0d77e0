"""One set of weights from several: their average, which often scores better than each.

Runs that went on from the same weights lie close enough for it (Wortsman et al., "Model soups",
https://arxiv.org/abs/2203.05482). Statistics of batch normalization are averaged like weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.networks.registry import build_network
from seg_perception.training.checkpoint import CheckpointInfo, load_strictly, load_weights, save_weights, weights_sha256


def average_weights(paths: Sequence[Path], shares: Sequence[float], out: Path, from_first: Sequence[str] = ()) -> None:
    """Write the weighted average of weights files of one network.

    Args:
        paths: two files or more; the description of the first is kept, without its scores.
        shares: one for each file, above 0; only their proportions count.
        out: the file to write.
        from_first: submodules that are taken from the first file alone, such as one that the others never trained.

    Raises:
        OSError: a file is missing or cannot be read or written.
        ModelError: not a weights file of ours; or another network, other options or other classes than the first's.
        SettingsError: the shares do not fit the files, or a submodule is not known.
    """
    if len(paths) < 2 or len(shares) != len(paths) or min(shares) <= 0:
        raise SettingsError(
            f"{len(paths)} files and the shares {', '.join(f'{s:g}' for s in shares)}: "
            "an average needs two files or more, and for each a share above 0"
        )
    loaded = [load_weights(path) for path in paths]
    first = loaded[0][1]
    network = build_network(first.network, len(first.label_set), **first.options)
    for path, (weights, info) in zip(paths, loaded, strict=True):
        if _kind(info) != _kind(first):
            raise ModelError(
                f"{path} holds {_kind(info)}, {paths[0]} {_kind(first)}: only like networks can be averaged"
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
    described = replace(first, scores={}, settings={**first.settings, "average": origin}, data_notes=tuple(notes))
    save_weights(out, average, described)


def _kind(info: CheckpointInfo) -> str:
    options = ", ".join(f"{name}={value}" for name, value in sorted(info.options.items()))
    return f"{info.network} ({options}) for {len(info.label_set)} classes of {info.label_set.name}"


def _mix(name: str, loaded: Sequence[tuple[dict[str, Tensor], CheckpointInfo]], parts: Sequence[float]) -> Tensor:
    total = sum(weights[name].double() * part for (weights, _), part in zip(loaded, parts, strict=True))
    assert isinstance(total, Tensor)
    return total.to(loaded[0][0][name].dtype)
