"""What holds for every network, and what a newcomer's file needs: nothing but itself.

A new network is under this contract as soon as its module is there; SMALL only saves time.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import seg_perception.networks
from seg_perception.cli.main import main
from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.settings import from_mapping
from seg_perception.networks import build_network, network_names, networks, networks_table
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.training.settings import TrainSettings

SMALL = {
    "reference": {"width": 0.125, "convolutions": [1, 1, 1, 1]},
    "efficientnet_ladder": {"decoder_channels": 16},
    "resnet_ladder": {"width": 0.125, "decoder_channels": 16},
}


def small(name: str, classes: int = 10) -> SegmentationNetwork:
    torch.manual_seed(3)
    return build_network(name, classes, **SMALL.get(name, {})).eval()


def test_the_known_networks() -> None:
    assert set(SMALL) <= set(network_names())
    for name, info in networks().items():
        assert info.name == name
        assert info.summary
    with pytest.raises(TypeError):
        networks()["mine"] = networks()["reference"]  # type: ignore[index]


def test_an_unknown_name_gets_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no network 'resnet'; known: .*reference"):
        build_network("resnet", 10)


@torch.no_grad()
@pytest.mark.parametrize("name", network_names())
@pytest.mark.parametrize("classes", [11])
def test_scores_have_the_promised_shape_at_two_sizes(name: str, classes: int) -> None:
    network = small(name, classes)
    m, stride = network.size_multiple, network.score_stride
    for rows, columns in ((1, 2), (3, 1)):
        images = torch.zeros(2, rows * m, columns * m, 3, dtype=torch.uint8)
        first, *coarser = network.scores_with_auxiliary(network.normalize(images))
        assert tuple(first.shape) == (2, classes, rows * m // stride, columns * m // stride)
        assert torch.equal(first, network(network.normalize(images)))
        for scores in coarser:
            assert scores.shape[:2] == (2, classes)


@torch.no_grad()
@pytest.mark.parametrize("name", network_names())
def test_an_image_scores_the_same_alone_and_in_a_batch(name: str) -> None:
    network = small(name)
    m = network.size_multiple
    images = torch.randint(0, 256, (3, 2 * m, 2 * m, 3), dtype=torch.uint8, generator=torch.manual_seed(5))
    together = network(network.normalize(images))
    for index in range(3):
        alone = network(network.normalize(images[index : index + 1]))
        assert torch.allclose(together[index], alone[0], atol=1e-4)


@pytest.mark.parametrize("name", network_names())
def test_normalization_is_pixel_minus_mean_by_deviation_in_rgb_order(name: str) -> None:
    network = small(name)
    m = network.size_multiple
    images = torch.zeros(1, m, m, 3, dtype=torch.uint8)
    images[0, 0, 1] = torch.tensor([255, 127, 1], dtype=torch.uint8)
    x = network.normalize(images)
    assert tuple(x.shape) == (1, 3, m, m)
    assert x.dtype == torch.float32
    for channel, value in enumerate((255, 127, 1)):
        mean, std = network.scaling.mean[channel], network.scaling.std[channel]
        assert float(x[0, channel, 0, 1]) == pytest.approx((value - mean) / std, abs=1e-6)
        assert float(x[0, channel, 0, 0]) == pytest.approx((0 - mean) / std, abs=1e-6)


@pytest.mark.parametrize("name", network_names())
def test_a_size_that_does_not_fit_is_refused(name: str) -> None:
    network = small(name)
    m = network.size_multiple
    with pytest.raises(InputError, match=f"multiples of {m}; resize or pad to {2 * m}x{m}"):
        network.normalize(torch.zeros(1, m, m + 1, 3, dtype=torch.uint8))


@pytest.mark.parametrize("name", network_names())
def test_every_parameter_learns(name: str) -> None:
    network = small(name).train()
    m = network.size_multiple
    images = torch.randint(0, 256, (2, 2 * m, 2 * m, 3), dtype=torch.uint8, generator=torch.manual_seed(5))
    scores = network.scores_with_auxiliary(network.normalize(images))
    sum(s.square().mean() for s in scores).backward()  # type: ignore[union-attr]
    idle = [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert idle == []


def test_stages_to_freeze_are_named_or_refused() -> None:
    reference = small("reference")
    assert reference.first_stages(0) == []
    with pytest.raises(
        SettingsError, match=r"ReferenceNetwork has no stages to freeze; set network.frozen_stages to 0"
    ):
        reference.first_stages(1)
    ladder = small("efficientnet_ladder")
    assert ladder.first_stages(0) == []
    assert len(ladder.first_stages(2)) == 3  # the stem and two stages
    with pytest.raises(SettingsError, match="8 is not in 0 to 7"):
        ladder.first_stages(8)


@pytest.mark.parametrize("name", network_names())
def test_only_the_score_layers_depend_on_the_classes(name: str) -> None:
    few, many = small(name, 3).state_dict(), small(name, 5).state_dict()
    differing = {key.split(".")[0] for key in few if few[key].shape != many[key].shape}
    assert differing == set(small(name).score_layers)


DUMMY = """
from torch import nn

from seg_perception.networks.base import InputScaling, NetworkInfo, SegmentationNetwork


class Pebble(SegmentationNetwork):
    size_multiple = 4
    score_stride = 4
    scaling = InputScaling((127.0, 127.0, 127.0), (64.0, 64.0, 64.0))

    def __init__(self, num_classes: int, channels: int = 8) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, channels, 4, 4)
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        return self.head(self.body(x).relu())


NETWORK = NetworkInfo("pebble", Pebble, "a newcomer's network, for a test")
"""


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One file in a folder that joins the package's; no other file is touched."""
    (tmp_path / "pebble.py").write_text(DUMMY)
    monkeypatch.setattr(seg_perception.networks, "__path__", [*seg_perception.networks.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop("seg_perception.networks.pebble", None)
    if hasattr(seg_perception.networks, "pebble"):
        del seg_perception.networks.pebble


@pytest.mark.usefixtures("newcomer")
def test_a_new_network_is_one_file() -> None:
    assert "pebble" in network_names()
    assert "| `pebble` | random | a newcomer's network, for a test |" in networks_table()
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["inspect", "--help"])
    assert "pebble" in out.getvalue()
    with contextlib.redirect_stdout(out):
        assert main(["inspect", "--network", "pebble", "--size", "64x48", "--options", "channels=16"]) == 0
    assert "network pebble, 10 classes" in out.getvalue()
    values = {"name": "mine", "train": [{"kind": "scenes"}], "network": {"name": "pebble", "options": {"channels": 4}}}
    assert from_mapping(TrainSettings, values, "x").network.outline().score_stride == 4
    with pytest.raises(SettingsError, match=r"no network 'pebbles'; known: .*pebble"):
        build_network("pebbles", 10)
    for test in (
        test_scores_have_the_promised_shape_at_two_sizes,
        test_an_image_scores_the_same_alone_and_in_a_batch,
        test_normalization_is_pixel_minus_mean_by_deviation_in_rgb_order,
        test_a_size_that_does_not_fit_is_refused,
        test_every_parameter_learns,
        test_only_the_score_layers_depend_on_the_classes,
    ):
        test("pebble", **({"classes": 11} if test is test_scores_have_the_promised_shape_at_two_sizes else {}))


def test_the_document_shows_the_table(repository: Path) -> None:
    assert networks_table() in (repository / "docs" / "training.md").read_text(encoding="utf-8")
