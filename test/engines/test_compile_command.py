"""`seg-perception compile` with NVIDIA's real builder: what the user sees, and what is left on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from fake_cuda import FakeCudaRuntime

from seg_perception.cli.main import main
from seg_perception.engines import cuda
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

pytestmark = pytest.mark.timeout(600)

Exported = Callable[[str, str], bytes]


@pytest.fixture
def model(nvidia: TensorRtLibrary, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported model in a folder of its own; the engine cache is beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.onnx"
    path.write_bytes(exported("efficientnet_ladder", "fp32"))
    return path


def engines(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if ".engine" in p.name)


def test_compiled_once_found_the_second_time(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(model)]) == 0
    first = capsys.readouterr().out
    assert "compiling test-1-fp16-00000000 with TensorRT-RTX" in first
    assert "fp16, up to 224x160, batch up to 1" in first
    assert main(["compile", str(model)]) == 0
    assert "is there and up to date" in capsys.readouterr().out
    found = engines(model.parent)
    assert len(found) == 2
    (description,) = (model.parent / "cache").rglob("*.json")
    document = json.loads(description.read_text())
    assert document["key"]["library"] == "tensorrt_rtx"
    assert document["card"]["precision"] == "fp16"


def test_a_gpu_that_could_not_run_the_engine_is_named(
    nvidia: TensorRtLibrary,
    driving_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On an H200, TensorRT-RTX builds for other machines only: that is said before the build, not when it is opened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "load_cuda", lambda: FakeCudaRuntime(gpu=("H200", 9, 0)))
    assert main(["compile", str(driving_model)]) == 0
    assert (
        "the engine will not run on this machine: TensorRT-RTX 1.7.1.116 does not support H200 "
        "(compute capability 9.0); it supports 7.5, 8.0, 8.6, 8.9, 12.0, 12.1 and newer ones"
    ) in " ".join(capsys.readouterr().err.split())


def test_a_stale_engine_is_built_anew(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.parent / "my.engine"
    assert main(["compile", str(model), "--out", str(out), "--precision", "fp32"]) == 0
    before = out.read_bytes()
    assert main(["compile", str(model), "--out", str(out)]) == 0
    assert "precision: built for fp32, needed fp16" in capsys.readouterr().err
    assert out.read_bytes() != before


def test_an_unsupported_operator(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = onnx.load_from_string(model.read_bytes())
    node = next(node for node in graph.graph.node if node.op_type == "Relu")
    node.op_type, node.name = "Det", "decoder.relu"
    model.write_bytes(graph.SerializeToString())
    assert main(["compile", str(model), "--precision", "fp32"]) == 2
    assert "node 'decoder.relu' (Det): TensorRT does not support this operator" in capsys.readouterr().err
    assert engines(model.parent) == []


def test_a_truncated_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.write_bytes(model.read_bytes()[:50_000])
    assert main(["compile", str(model)]) == 2
    assert "model.onnx: not an ONNX file, or truncated" in capsys.readouterr().err
    assert engines(model.parent) == []


FULL_DISK = """
import resource, signal, sys
from seg_perception.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # a disk with room for 1 MiB
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk(model: Path) -> None:
    out = model.parent / "my.engine"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "compile", str(model), "--out", str(out)],
        capture_output=True, text=True, timeout=300, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert str(out) in done.stderr
    assert "Traceback" not in done.stderr
    assert engines(model.parent) == []


SLOW = """
import sys, time
from seg_perception.cli.main import main
from seg_perception.engines.tensorrt import build as tensorrt_build

step = tensorrt_build.NestedFractions.step
def slow(self, *arguments):
    print("building", flush=True)
    time.sleep(0.05)
    return step(self, *arguments)
tensorrt_build.NestedFractions.step = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=str
)
def test_stopped_half_way_there_is_no_engine(model: Path, number: signal.Signals, status: int) -> None:
    out = model.parent / "my.engine"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, "compile", str(model), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(line == "building\n" for line in process.stdout)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == status
    if number != signal.SIGKILL:
        assert "stopping after the step at hand" in stderr
        assert "the build was stopped; no engine was written" in stderr
        assert "Traceback" not in stderr
    assert engines(model.parent) == []


INSIDE_TENSORRT = """
import hashlib, sys
from seg_perception.cli.main import main
from seg_perception.engines.tensorrt import build as tensorrt_build

def endless(*arguments):  # C code that lets other threads run and looks at no signal, as a long step of TensorRT
    print("building", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
tensorrt_build.NestedFractions.step = endless
sys.exit(main(sys.argv[1:]))
"""


def test_a_second_interrupt_ends_the_process_even_inside_a_long_step(model: Path) -> None:
    out = model.parent / "my.engine"
    with subprocess.Popen(
        [sys.executable, "-c", INSIDE_TENSORRT, "compile", str(model), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line == "building\n" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert any("press Ctrl-C again to end at once" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert engines(model.parent) == []


def test_a_folder_that_others_can_write_to_is_refused_before_the_build(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = model.parent / "shared"
    shared.mkdir()
    shared.chmod(0o775)  # what a new folder is on many systems
    assert main(["compile", str(model), "--out", str(shared / "my.engine")]) == 2
    printed = capsys.readouterr()
    assert f"run: chmod go-w {shared}" in printed.err
    assert "compiling" not in printed.out
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        (["--batch", "0"], "batch 0 must be at least 1"),
        (["--size", "big"], "image size 'big' is not accepted"),
        (["--size", "100x100"], "multiples of 32"),
        (["--precision", "int8"], "precision int8 cannot be made from an fp32 graph"),
        (["--out", "/nowhere/x.engine"], "there is no such folder to write to: '/nowhere'"),
        (["--hardware-compatible"], "builds no hardware-compatible engine"),
    ],
)
def test_wrong_options(model: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["compile", str(model), *options]) == 2
    assert message in capsys.readouterr().err
    assert engines(model.parent) == []
