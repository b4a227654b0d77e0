"""`seg-perception inspect`: what it prints is what the thing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seg_perception.cli.main import main
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.networks import build_network
from seg_perception.training.checkpoint import CheckpointInfo, save_weights


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["inspect", *arguments]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_the_table_of_the_reference_network_at_width_one(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--network", "reference", "--size", "480x352")
    assert lines[:12] == [
        "network reference, 10 classes",
        "stage height x width x depth",
        "image 352 x 480 x 3",
        "Conv1 176 x 240 x 64",
        "Conv2 88 x 120 x 128",
        "Conv3 44 x 60 x 256",
        "Conv4 22 x 30 x 512",
        "Deconv1 44 x 60 x 512",
        "Deconv2 88 x 120 x 256",
        "Deconv3 176 x 240 x 128",
        "Deconv4 352 x 480 x 64",
        "scores 352 x 480 x 10",
    ]
    assert "17.63 M parameters" in lines


def test_parameters_and_arithmetic_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(
        capsys, "--network", "reference", "--size", "16x16", "--options", "width=0.125", "convolutions=[1, 1, 1, 1]"
    )
    encoder = [(3, 8), (8, 16), (16, 32), (32, 64)]  # at 16, 8, 4, 2 pixels: halved after each
    decoder = [(64, 64), (64, 32), (32, 16), (16, 8)]  # at 2, 4, 8, 16 pixels: doubled before each
    sides = [16, 8, 4, 2, 2, 4, 8, 16]
    layers = list(zip(encoder + decoder, sides, strict=True))
    multiply_adds = sum(9 * before * after * side**2 for (before, after), side in layers) + 8 * 10 * 16**2
    parameters = sum(9 * before * after + 2 * after for (before, after), _ in layers) + 8 * 10 + 10
    assert f"{parameters / 1e6:.2f} M parameters" in lines
    assert f"({multiply_adds / 1e9:.1f} G multiply-adds in convolutions)" in lines[-1]
    from seg_perception.networks import inspect_network

    report = inspect_network(build_network("reference", 10, width=0.125, convolutions=(1, 1, 1, 1)), Size(16, 16))
    assert report.flop == 2 * multiply_adds
    assert report.parameters == parameters


def test_the_training_only_part_of_a_network_is_not_counted() -> None:
    from seg_perception.networks import inspect_network

    network = build_network("efficientnet_ladder", 10, decoder_channels=16)
    report = inspect_network(network, Size(64, 32))
    auxiliary = 16 * 10 + 10
    assert report.parameters == sum(p.numel() for p in network.parameters()) - auxiliary
    assert [stage.name for stage in report.stages][-1] == "correction"
    assert next(network.parameters()).device == torch.device("cpu"), "the network itself is untouched"


def test_a_model_says_what_its_card_says(capsys: pytest.CaptureFixture[str], driving_model: Path) -> None:
    lines = shown(capsys, str(driving_model))
    assert "classes driving: 10" in lines
    assert "0 road #804080 drivable" in lines
    assert "9 background #464646" in lines
    assert "input image: uint8 [N, H, W, 3]" in lines
    assert "outputs labels: uint8 [N, H, W]" in lines
    assert "confidence: uint8 [N, H, W]" in lines
    assert any(line.startswith("operators ") and "Conv" in line for line in lines)
    for row in ("model", "network", "precision", "input size", "weights", "data", "license", "limits", "opset"):
        assert any(line.startswith(row) for line in lines), row


def test_a_checkpoint_says_how_it_was_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    network = build_network("reference", 10, width=0.125, convolutions=(1, 1, 1, 1))
    info = CheckpointInfo(
        name="mine",
        network="reference",
        options={"width": 0.125, "convolutions": [1, 1, 1, 1]},
        label_set=load_label_set("driving"),
        deployed_size=Size(96, 64),
        step=300,
        settings_sha256="ab" * 32,
        scores={"mine/val": {"mean_iou": 61.25, "iou/road": 95.5}},
        data_notes=("ten pictures of the yard",),
        license="ours",
        limits=("sunshine only", "one yard"),
    )
    save_weights(tmp_path / "best.safetensors", network.state_dict(), info)
    lines = shown(capsys, str(tmp_path / "best.safetensors"))
    for line in (
        "run mine, step 300",
        "network reference (convolutions=[1, 1, 1, 1], width=0.125)",
        "input size 96x64",
        f"settings SHA-256 {'ab' * 32}",
        "data ten pictures of the yard",
        "license ours",
        "scores mine/val (percent)",
        "mean_iou 61.25",
        "limits sunshine only",
        "one yard",
    ):
        assert line in lines


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.onnx"], "no such file: 'nowhere.onnx'"),
        (["--network", "resnet"], "no network 'resnet'; known: "),
        (["--network", "reference", "--size", "480x360"], "resize or pad to 480x368"),
        (["--network", "reference", "--size", "big"], "write WIDTHxHEIGHT"),
        (["--network", "reference", "--classes", "0"], "0 classes are not accepted: 1 to 254 are"),
        (["--network", "reference", "--options", "width"], "write NAME=VALUE, for example width=0.5"),
        (["--network", "reference", "--options", "width=["], "is not a YAML value"),
        (["--network", "reference", "--options", "depth=3"], "unexpected keyword argument 'depth'"),
    ],
)
def test_what_cannot_be_shown_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["inspect", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("seg-perception inspect: ")
    assert captured.out == ""


def test_foreign_and_damaged_files_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, message in (
        ("notes.txt", "notes.txt: not an ONNX file, or truncated"),
        ("cut.onnx", "cut.onnx"),
        ("cut.safetensors", "not a safetensors file, or truncated"),
    ):
        (tmp_path / name).write_bytes(b"\x08")
        assert main(["inspect", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
