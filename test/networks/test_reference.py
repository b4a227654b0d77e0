"""The reference network, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.networks import build_network
from seg_perception.networks.reference import ReferenceNetwork, Upsampling

M, N = 64, 96  # rows and columns: unequal, so that a swap shows

TABLE = {  # stage -> (the divisor of M and N, depth), as specified
    "Conv1": (2, 64),
    "Conv2": (4, 128),
    "Conv3": (8, 256),
    "Conv4": (16, 512),
    "Deconv1": (8, 512),
    "Deconv2": (4, 256),
    "Deconv3": (2, 128),
    "Deconv4": (1, 64),
}


@pytest.fixture(scope="module")
def full_width() -> ReferenceNetwork:
    torch.manual_seed(1)
    return ReferenceNetwork(10).eval()


@torch.no_grad()
def test_every_row_of_the_table_from_a_real_forward_pass_at_width_one(full_width: ReferenceNetwork) -> None:
    maps = full_width.stage_maps(torch.randn(1, 3, M, N))
    assert list(maps) == list(TABLE)
    found = {name: tuple(x.shape) for name, x in maps.items()}
    assert found == {name: (1, depth, M // by, N // by) for name, (by, depth) in TABLE.items()}
    # the same in numbers, from the specification's own words for a 64 x 96 image
    assert found == {
        "Conv1": (1, 64, 32, 48),
        "Conv2": (1, 128, 16, 24),
        "Conv3": (1, 256, 8, 12),
        "Conv4": (1, 512, 4, 6),
        "Deconv1": (1, 512, 8, 12),
        "Deconv2": (1, 256, 16, 24),
        "Deconv3": (1, 128, 32, 48),
        "Deconv4": (1, 64, 64, 96),
    }


@torch.no_grad()
def test_then_scores_for_ten_classes_at_every_pixel(full_width: ReferenceNetwork) -> None:
    scores = full_width(torch.randn(1, 3, M, N))
    assert tuple(scores.shape) == (1, 10, M, N)
    assert full_width.score_stride == 1
    probabilities = scores.softmax(dim=1)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(1, M, N))


def test_convolutions_a_stage_and_the_mirrored_decoder(full_width: ReferenceNetwork) -> None:
    def counts(stages: nn.ModuleList) -> list[int]:
        return [sum(isinstance(m, nn.Conv2d) for m in stage.modules()) for stage in stages]

    assert counts(full_width.encoder) == [2, 2, 3, 3]
    assert counts(full_width.decoder) == [3, 3, 2, 2]
    other = ReferenceNetwork(10, width=0.125, convolutions=(1, 2, 3, 4))
    assert counts(other.encoder) == [1, 2, 3, 4]
    assert counts(other.decoder) == [4, 3, 2, 1]


def test_each_encoder_stage_convolves_then_halves_and_each_decoder_stage_doubles_then_convolves(
    full_width: ReferenceNetwork,
) -> None:
    for stage in full_width.encoder:
        assert isinstance(stage[-1], nn.MaxPool2d)
    for stage in full_width.decoder:
        assert isinstance(stage[0], Upsampling)
        assert stage[0].multiplier == 2
    assert sum(isinstance(m, nn.MaxPool2d) for m in full_width.modules()) == 4
    assert sum(isinstance(m, Upsampling) for m in full_width.modules()) == 4


@pytest.mark.parametrize("multiplier", [1, 2, 3, 4])
def test_upsampling_multiplies_both_sides_and_keeps_the_depth(multiplier: int) -> None:
    x = torch.randn(2, 5, 3, 7)
    y = Upsampling(multiplier)(x)
    assert tuple(y.shape) == (2, 5, 3 * multiplier, 7 * multiplier)


def test_upsampling_is_bilinear_between_pixel_centers() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])
    # the centers of four output pixels lie at -0.25, 0.25, 0.75, 1.25 input pixels; outside, the edge is repeated
    assert Upsampling(2)(x)[0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


@torch.no_grad()
@pytest.mark.parametrize(
    "width, depths",
    [
        (0.5, [32, 64, 128, 256, 256, 128, 64, 32]),
        (0.25, [16, 32, 64, 128, 128, 64, 32, 16]),
        (0.125, [8, 16, 32, 64, 64, 32, 16, 8]),
        (0.01, [8, 8, 8, 8, 8, 8, 8, 8]),  # never below one multiple of 8
        (0.3, [16, 40, 80, 152, 152, 80, 40, 16]),  # 19.2, 38.4, 76.8, 153.6 to the nearest multiple of 8
    ],
)
def test_the_width_multiplies_every_depth(width: float, depths: list[int]) -> None:
    maps = ReferenceNetwork(10, width=width, convolutions=(1, 1, 1, 1)).eval().stage_maps(torch.zeros(1, 3, 16, 32))
    assert [x.shape[1] for x in maps.values()] == depths
    assert [tuple(x.shape[2:]) for x in maps.values()][3] == (1, 2)


@pytest.mark.parametrize(
    "height, width, fitting",
    [(360, 480, "480x368"), (65, 96, "96x80"), (64, 97, "112x64"), (1, 1, "16x16")],
)
def test_a_size_that_16_does_not_divide_is_refused_with_the_size_to_pad_to(
    height: int, width: int, fitting: str
) -> None:
    network = ReferenceNetwork(10, width=0.125, convolutions=(1, 1, 1, 1)).eval()
    message = f"size {width}x{height} does not fit the network: .* multiples of 16; resize or pad to {fitting}"
    with pytest.raises(InputError, match=message):
        network(torch.zeros(1, 3, height, width))
    with pytest.raises(InputError, match=message):
        network.normalize(torch.zeros(1, height, width, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 0}, "width 0 must be above 0"),
        ({"width": -1.0}, "width -1.0 must be above 0"),
        ({"convolutions": [2, 2, 3]}, r"convolutions \[2, 2, 3\] must be four counts of at least 1"),
        ({"convolutions": [2, 2, 3, 0]}, "must be four counts of at least 1"),
        ({"width": "wide"}, "network 'reference'"),
        ({"depth": 3}, "unexpected keyword argument 'depth'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_network("reference", 10, **options)


def test_parameters_and_their_count_by_hand() -> None:
    network = ReferenceNetwork(10, width=0.125, convolutions=(1, 1, 1, 1))
    # 3x3 kernels without bias, plus scale and shift for each output channel of the normalization
    encoder = [(3, 8), (8, 16), (16, 32), (32, 64)]
    decoder = [(64, 64), (64, 32), (32, 16), (16, 8)]
    expected = sum(9 * before * after + 2 * after for before, after in encoder + decoder)
    expected += 8 * 10 + 10  # the 1x1 head with bias
    assert sum(p.numel() for p in network.parameters()) == expected
