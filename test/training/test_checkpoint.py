"""Checkpoints: whole or absent, loaded without executing anything, and averaged number by number."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seg_perception.cli.main import main
from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.networks import build_network
from seg_perception.training import checkpoint
from seg_perception.training.checkpoint import (
    CheckpointInfo,
    ResumeState,
    average_weights,
    load_network,
    read_info,
    save_weights,
    weights_sha256,
)

OPTIONS = {"width": 0.125, "convolutions": [1, 1, 1, 1]}
INFO = CheckpointInfo(
    name="mine",
    network="reference",
    options=OPTIONS,
    label_set=load_label_set("driving"),
    deployed_size=Size(96, 64),
    step=7,
    settings={"seed": 3, "batch_size": 4, "precision": "fp32", "train": [{"kind": "scenes"}]},
    settings_sha256="ab" * 32,
    scores={"mine": {"mean_iou": 50.0}},
    data_notes=("ten pictures",),
    license="ours",
    limits=("sunshine only",),
)
CPU = torch.device("cpu")


def network() -> torch.nn.Module:
    torch.manual_seed(4)
    return build_network("reference", 10, **OPTIONS)


def state(**changes: object) -> ResumeState:
    weights = network().state_dict()
    fresh = ResumeState(
        step=7, best_score=float("-inf"), settings_sha256="ab", network=weights, average=weights, optimizer={"a": [1.5]}
    )
    return dataclasses.replace(fresh, **changes)


def test_weights_and_description_come_back_as_they_were(tmp_path: Path) -> None:
    original = network()
    save_weights(tmp_path / "w.safetensors", original.state_dict(), INFO)
    assert read_info(tmp_path / "w.safetensors") == INFO
    loaded, info = load_network(tmp_path / "w.safetensors")
    assert info == INFO
    assert not loaded.training
    theirs = original.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loaded.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"], "nothing else is left in the folder"


def test_the_model_card_says_what_the_checkpoint_says() -> None:
    card = INFO.model_card(network(), version="1.0", weights_sha256="cd" * 32)
    assert card.id == "mine-1.0-fp32-cdcdcdcd"
    assert (card.input_size, card.size_multiple, card.label_set) == (Size(96, 64), 16, INFO.label_set)
    assert card.run == {"steps": 7, "settings_sha256": "ab" * 32, "seed": 3, "batch_size": 4, "precision": "fp32"}
    started = dataclasses.replace(INFO, settings={"network": {"checkpoint": "/home/me/runs/first/best.safetensors"}})
    run = started.model_card(network(), version="1.0", weights_sha256="cd" * 32).run
    assert run["start"] == "first/best.safetensors"  # no folder of the machine
    assert (card.scores, card.data, card.data_license, card.limits) == (
        INFO.scores,
        ("ten pictures",),
        "ours",
        ("sunshine only",),
    )
    budget = dataclasses.replace(INFO, deployed_size=Size(640, 360))  # 360 / 16 = 22.5, rounded to even: 22 x 16 = 352
    assert budget.model_card(network(), version="1.0", weights_sha256="cd" * 32).input_size == Size(640, 352)


def test_a_truncated_or_foreign_weights_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match=r"w\.safetensors: no such checkpoint"):
        load_network(path)
    save_weights(path, network().state_dict(), INFO)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"w\.safetensors: not a safetensors file, or truncated"):
            load_network(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="no description inside; it was not written by 'seg-perception train'"):
        load_network(path)


def test_what_the_system_says_of_an_unreadable_file_is_passed_on() -> None:
    # a regular file that cannot be mapped into memory, for root neither
    with pytest.raises(OSError, match=r"No such device"):
        read_info(Path("/proc/self/maps"))


def test_weights_that_do_not_fit_exactly_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights = network().state_dict()
    less = dict(list(weights.items())[1:])
    for wrong, message in ((less, "Missing key"), ({**weights, "extra": torch.zeros(1)}, "Unexpected key")):
        save_weights(path, wrong, INFO)
        with pytest.raises(ModelError, match=f"the weights do not fit the network: (?s:.*){message}"):
            load_network(path)
    save_weights(path, weights, dataclasses.replace(INFO, options={**OPTIONS, "width": 0.25}))
    with pytest.raises(ModelError, match=r"the weights do not fit the network: (?s:.*)size mismatch"):
        load_network(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label_set": None}, "label_set: missing"),
        ({"step": None}, "step: missing"),
        ({"deployed_size": None}, "deployed_size: missing"),
        ({"deployed_size": {"width": 0, "height": 5}}, "deployed_size: image size 0x5 is not accepted"),
        ({"extra": 1}, "extra: unknown; known here: name, network"),
        ({"step": "7"}, "step: '7' is not accepted; a value of type int is expected"),
        ({"options": [1]}, "options: a table is expected"),
    ],
)
def test_a_damaged_description_is_refused(changes: dict[str, Any], message: str) -> None:
    document = json.loads(INFO.to_json()) | changes
    text = json.dumps({name: value for name, value in document.items() if value is not None})
    with pytest.raises(ModelError, match=f"the checkpoint's description: 1 fault(?s:.*){message}"):
        CheckpointInfo.from_json(text)


def test_a_description_that_is_no_json_is_refused() -> None:
    with pytest.raises(ModelError, match="the checkpoint's description: not valid JSON"):
        CheckpointInfo.from_json("{")
    with pytest.raises(ModelError, match="the checkpoint's description: the JSON is nested too deep"):
        CheckpointInfo.from_json("[" * 100_000)
    document = json.loads(INFO.to_json()) | {"scores": {"mine": {"mean_iou": 10**400}}}
    with pytest.raises(ModelError, match=r"scores\.mine\.mean_iou: 1000.*is not accepted"):
        CheckpointInfo.from_json(json.dumps(document))
    with pytest.raises(ModelError, match="a table is expected, got 5"):
        CheckpointInfo.from_json("5")


def test_the_state_of_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    original = state(settings={"steps": 3, "size": "4x3", "none": None, "list": [1, 2.5]})
    original.save(tmp_path / "last.pt")
    loaded = ResumeState.load(tmp_path / "last.pt", CPU)
    assert (loaded.step, loaded.best_score, loaded.settings_sha256) == (7, float("-inf"), "ab")
    assert loaded.settings == original.settings
    assert loaded.optimizer == {"a": [1.5]}
    assert all(torch.equal(loaded.network[name], value) for name, value in original.network.items())


def test_a_truncated_state_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    state().save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"last\.pt: cannot resume from this file: .*; delete it to start anew$"):
            ResumeState.load(path, CPU)


def test_a_file_that_is_no_state_of_a_run_is_refused(tmp_path: Path) -> None:
    for content in ({"step": 1}, {"surprise": 1}, [1, 2], torch.zeros(2)):
        torch.save(content, tmp_path / "last.pt")
        with pytest.raises(ModelError, match=r"last\.pt: not the resume state of a run: .*; delete it to start anew"):
            ResumeState.load(tmp_path / "last.pt", CPU)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": _Bomb()}, tmp_path / "last.pt")
    with pytest.raises(ModelError, match="cannot resume from this file"):
        ResumeState.load(tmp_path / "last.pt", CPU)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Bomb(), protocol=2))
    with pytest.raises(ModelError, match="cannot resume from this file"):
        ResumeState.load(tmp_path / "plain.pt", CPU)
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    state().save(path)
    before = path.read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left on device"):
        state(step=8).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_the_hash_is_the_files(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checkpoint.weights_sha256(tmp_path / "w") == expected


AVERAGED = CheckpointInfo(
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
    info = dataclasses.replace(AVERAGED, **changes)
    network = build_network(info.network, len(info.label_set), **info.options)
    state = {
        k: torch.full_like(v, value if v.is_floating_point() else int(value)) for k, v in network.state_dict().items()
    }
    save_weights(path, state, info)
    return path


def test_every_number_is_the_weighted_mean_and_statistics_are_numbers_too(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.safetensors", 1.0, license="CC BY")
    second = saved(tmp_path / "b.safetensors", 5.0, data_notes=("theirs", "ours"), license="not for sale; CC BY")
    out = tmp_path / "c.safetensors"
    average_weights([first, second], [3, 1], out, ["rung2"])
    network, info = load_network(out)
    for name, value in network.state_dict().items():
        # 3/4 of 1 and 1/4 of 5 are 2; counters and what is named come from the first
        expected = 1.0 if name.startswith("rung2.") or not value.is_floating_point() else 2.0
        assert torch.equal(value, torch.full_like(value, expected)), name
    assert any("running_var" in name for name in network.state_dict())
    assert info.scores == {}
    assert (info.data_notes, info.license) == (("ours", "theirs"), "CC BY; not for sale")
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
    known = load_label_set()
    renamed = dataclasses.replace(
        known, classes=tuple(dataclasses.replace(c, name=f"{c.name}s") for c in known.classes)
    )
    with pytest.raises(ModelError, match=r"d.safetensors has the classes roads, .* road, .* only like networks"):
        average_weights([first, saved(tmp_path / "d.safetensors", 1.0, label_set=renamed)], [1, 1], out)
    for shares in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]):  # NaN would become the weights
        with pytest.raises(SettingsError, match="for each a finite share above 0"):
            average_weights([first, first], shares, out)
    with pytest.raises(SettingsError, match="needs two files or more"):
        average_weights([first], [1.0], out)
    assert not out.exists()
