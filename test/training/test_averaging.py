"""The average of weights, number by number."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from seg_perception.cli.main import main
from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.networks.registry import build_network
from seg_perception.training.averaging import average_weights
from seg_perception.training.checkpoint import CheckpointInfo, load_network, save_weights, weights_sha256

INFO = CheckpointInfo(
    name="mine",
    network="efficientnet_ladder",
    options={"decoder_channels": 16, "detail_channels": 8},
    label_set=load_label_set("driving"),
    deployed_size=Size(96, 64),
    step=3,
    scores={"mine/val": {"mean_iou": 61.25}},
    data_notes=("ours",),
)


def saved(path: Path, value: float, **changes: object) -> Path:
    info = dataclasses.replace(INFO, **changes)
    network = build_network(info.network, len(info.label_set), **info.options)
    state = {
        k: torch.full_like(v, value if v.is_floating_point() else int(value)) for k, v in network.state_dict().items()
    }
    save_weights(path, state, info)
    return path


def test_every_number_is_the_weighted_mean_and_statistics_are_numbers_too(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.safetensors", 1.0)
    second = saved(tmp_path / "b.safetensors", 5.0, data_notes=("theirs", "ours"))
    out = tmp_path / "c.safetensors"
    average_weights([first, second], [3, 1], out, ["rung2"])
    network, info = load_network(out)
    for name, value in network.state_dict().items():
        # 3/4 of 1 and 1/4 of 5 are 2; counters and what is named come from the first
        expected = 1.0 if name.startswith("rung2.") or not value.is_floating_point() else 2.0
        assert torch.equal(value, torch.full_like(value, expected)), name
    assert any("running_var" in name for name in network.state_dict())
    assert info.scores == {}
    assert info.data_notes == ("ours", "theirs")
    origin = f"0.75 of {weights_sha256(first)[:8]}, 0.25 of {weights_sha256(second)[:8]}"
    assert info.settings["average"] == origin
    assert info.model_card(network, "1", "0" * 64).run["average"] == origin


def test_the_command_takes_equal_shares_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(saved(tmp_path / f"{value}.safetensors", float(value))) for value in (1, 2, 6)]
    out = tmp_path / "out.safetensors"
    assert main(["average", *files, "--out", str(out)]) == 0
    assert f"export --checkpoint {out}" in capsys.readouterr().out
    assert float(load_network(out)[0].state_dict()["head.bias"][0]) == 3.0
    assert main(["average", *files, "--shares", "1", "2", "--out", str(out)]) == 2
    assert "3 files and the shares 1, 2" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    first, out = saved(tmp_path / "a.safetensors", 1.0), tmp_path / "out.safetensors"
    other = saved(tmp_path / "b.safetensors", 1.0, options={"decoder_channels": 16, "detail_channels": 16})
    with pytest.raises(ModelError, match=r"b.safetensors holds .*detail_channels=16.* only like networks"):
        average_weights([first, other], [1, 1], out)
    eleven = saved(tmp_path / "c.safetensors", 1.0, label_set=load_label_set("camvid11"))
    with pytest.raises(ModelError, match=r"c.safetensors holds .* for 11 classes of camvid11, .* for 10 classes"):
        average_weights([first, eleven], [1, 1], out)
    with pytest.raises(SettingsError, match=r"'efficientnet_ladder' has no rung3; known: encoder, .*rung2"):
        average_weights([first, first], [1, 1], out, ["rung3"])
    for shares in ([1.0], [1.0, 0.0], [1.0, -1.0]):
        with pytest.raises(SettingsError, match="for each a share above 0"):
            average_weights([first, first], shares, out)
    with pytest.raises(SettingsError, match="needs two files or more"):
        average_weights([first], [1.0], out)
    assert not out.exists()
