"""Optimizer, schedule and averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seg_perception.networks import build_network
from seg_perception.training.optimization import AveragedNetwork, build_optimizer, learning_rate, set_learning_rate
from seg_perception.training.settings import OptimizerSettings


def small() -> nn.Module:
    return build_network("reference", 3, width=0.125, convolutions=(1, 1, 1, 1))


def test_the_rate_rises_in_a_line_and_falls_to_zero() -> None:
    settings = OptimizerSettings(learning_rate=0.01, warmup_steps=4, decay_power=1.0)
    rates = [learning_rate(step, 12, settings) for step in range(13)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])  # quarters of the peak
    assert rates[4:] == pytest.approx([0.01 * (1 - i / 8) for i in range(9)])  # eight steps down
    assert rates[12] == 0
    curved = OptimizerSettings(learning_rate=0.01, warmup_steps=0, decay_power=2.0)
    assert learning_rate(5, 10, curved) == pytest.approx(0.01 * 0.25)


def test_a_run_no_longer_than_its_warm_up_still_has_a_rate() -> None:
    settings = OptimizerSettings(learning_rate=0.01, warmup_steps=100)
    assert [learning_rate(step, 2, settings) for step in range(2)] == pytest.approx([1e-4, 2e-4])
    assert learning_rate(0, 1, OptimizerSettings(learning_rate=0.01, warmup_steps=0)) == 0.01


def test_encoder_and_decay_have_their_own_groups() -> None:
    network = small()
    optimizer = build_optimizer(network, OptimizerSettings(encoder_factor=0.25, weight_decay=0.1))
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len(list(network.parameters()))
    set_learning_rate(optimizer, 0.8)
    for name, parameter in network.named_parameters():
        group = of[id(parameter)]
        assert group["lr"] == pytest.approx(0.2 if name.startswith("encoder.") else 0.8)
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_frozen_parameters_are_left_out() -> None:
    network = build_network("efficientnet_ladder", 10, decoder_channels=16)
    for part in network.first_stages(2):
        part.requires_grad_(False)
    optimized = {id(p) for g in build_optimizer(network, OptimizerSettings()).param_groups for p in g["params"]}
    frozen = [p for part in network.first_stages(2) for p in part.parameters()]
    assert len(frozen) > 10
    assert not optimized & {id(p) for p in frozen}


def test_the_average_moves_by_the_share_of_its_step() -> None:
    network = small()
    average = AveragedNetwork(network, 0.9)
    first = next(network.parameters())
    before = first.detach().clone()
    with torch.no_grad():
        first.add_(1.0)
    average.update(0)  # decay min(0.9, 1/10): nine tenths of the way
    assert torch.allclose(next(average.network.parameters()), before + 0.9)
    with torch.no_grad():
        first.add_(1.0)
    average.update(10_000)  # decay min(0.9, 10001/10010): a tenth of the way from 0.9 to 2
    assert torch.allclose(next(average.network.parameters()), before + 0.9 + 0.1 * 1.1)


def test_the_average_takes_statistics_too_and_never_learns_itself() -> None:
    network = small()
    average = AveragedNetwork(network, 0.5)
    network.train()
    network(torch.randn(2, 3, 16, 16))
    average.update(10_000)
    theirs, ours = network.state_dict(), average.network.state_dict()
    counters = [name for name in theirs if name.endswith("num_batches_tracked")]
    assert counters
    assert all(int(ours[name]) == int(theirs[name]) == 1 for name in counters)
    means = [name for name in theirs if name.endswith("running_mean")]
    assert all(torch.allclose(ours[name], theirs[name] / 2) for name in means)  # half way from zero
    assert not any(p.requires_grad for p in average.network.parameters())


def test_without_decay_the_average_is_the_network_itself() -> None:
    network = small()
    average = AveragedNetwork(network, 0.0)
    average.update(5)
    assert average.network is network
