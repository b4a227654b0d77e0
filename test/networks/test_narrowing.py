"""Narrow networks from wide ones: which channels are kept, and that the rest of the network stays itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.networks import build_network
from seg_perception.networks.base import ChannelGroup, narrowed
from seg_perception.networks.efficientnet_ladder import EfficientNetLadder
from seg_perception.training.settings import NetworkSettings

GROUP = ChannelGroup(("first",), ("norm",), ("second",))


def weights(channels: int) -> dict[str, torch.Tensor]:
    network = nn.ModuleDict(
        {
            "first": nn.Conv2d(1, channels, 1, bias=False),
            "norm": nn.BatchNorm2d(channels),
            "second": nn.Conv2d(2 * channels, 1, 1, bias=False),  # takes two copies, one after another
        }
    )
    return network.state_dict()


def test_the_channels_of_most_effect_are_kept_by_hand() -> None:
    """Scales (1, 3, 2), taken by (3, 0) (0, 1) and (4, 3): strengths 1 * 3, 3 * 1 and 2 * 5."""
    wide = weights(3)
    wide["first.weight"] = torch.tensor([10.0, 20.0, 30.0])[:, None, None, None]
    wide["norm.weight"] = torch.tensor([-1.0, 3.1, 2.0])
    wide["norm.running_mean"] = torch.tensor([0.1, 0.2, 0.3])
    wide["second.weight"] = torch.tensor([3.0, 0, 4, 0, 1, 3])[None, :, None, None]
    cut = narrowed(wide, [GROUP], weights(2), "wide")
    assert cut["first.weight"].flatten().tolist() == [20, 30]
    assert cut["norm.running_mean"].tolist() == pytest.approx([0.2, 0.3])
    assert cut["second.weight"].flatten().tolist() == [0, 4, 1, 3]
    assert {name: value.shape for name, value in cut.items()} == {n: v.shape for n, v in weights(2).items()}


def test_more_channels_than_there_are_are_refused() -> None:
    with pytest.raises(ModelError, match=r"wide: first has 2 channels, and 3 are wanted of it"):
        narrowed(weights(2), [GROUP], weights(3), "wide")


@torch.no_grad()
def test_without_its_dead_channels_the_default_network_answers_as_before() -> None:
    """Half of the channels of every group are made to give nothing; cut out, they are not missed."""
    torch.manual_seed(3)
    wide = EfficientNetLadder(4, decoder_channels=32, detail_channels=8, expand=2).eval()
    without_expansion = EfficientNetLadder(4, decoder_channels=16, detail_channels=4, expand=1).state_dict()
    nn.init.normal_(wide.correction.weight)  # it begins as zero, and nothing would be stronger than anything
    state = wide.state_dict()
    with pytest.raises(ModelError, match=r"narrow: no layer encoder\.stages\.1"):
        narrowed(without_expansion, wide.channel_groups(), wide.state_dict(), "narrow")
    narrow = EfficientNetLadder(4, decoder_channels=16, detail_channels=4, expand=2).eval()
    for group in narrow.channel_groups():
        for name in group.normed_by:
            kept = narrow.state_dict()[f"{name}.weight"].shape[0]
            dead = torch.randperm(state[f"{name}.weight"].shape[0], generator=torch.Generator().manual_seed(1))[kept:]
            state[f"{name}.weight"][dead] = 0
            state[f"{name}.bias"][dead] = 0
    narrow.load_state_dict(narrowed(state, narrow.channel_groups(), narrow.state_dict(), "wide"))
    x = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(narrow.scores_with_auxiliary(x), wide.scores_with_auxiliary(x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_encoder_is_narrowed_as_well() -> None:
    torch.manual_seed(4)
    wide, narrow = (EfficientNetLadder(4, 16, 4, expand).eval() for expand in (4, 2))
    state = wide.state_dict()
    for group in wide.encoder.channel_groups():
        for name in group.normed_by:
            half = len(state[f"{name}.weight"]) // 2
            state[f"{name}.weight"][::2][:half] = 0
            state[f"{name}.bias"][::2][:half] = 0
    narrow.load_state_dict(narrowed(state, wide.channel_groups(), narrow.state_dict(), "wide"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(narrow(x), wide(x), atol=1e-4)


def test_only_networks_that_say_how_are_narrowed() -> None:
    with pytest.raises(SettingsError, match=r"ReferenceNetwork cannot be narrowed; set network\.narrowed to false"):
        build_network("reference", 2, width=0.1).channel_groups()
    with pytest.raises(SettingsError, match="narrowed: needs a checkpoint, or start: driving"):
        NetworkSettings(narrowed=True)
    with pytest.raises(SettingsError, match="narrowed: ReferenceNetwork cannot be narrowed"):
        NetworkSettings("reference", start="driving", narrowed=True)
