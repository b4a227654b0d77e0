"""One suite for every engine that can run on this machine; the others are skipped with their own reason.

A new engine is one file: `test_a_new_engine_is_one_file` drops one into a copy of the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from seg_perception.core.errors import EngineError, InputError, ModelError
from seg_perception.core.types import Size
from seg_perception.engines.base import Engine, EngineSpec, check_answer
from seg_perception.engines.graph import pin_shapes
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.opening import compiling_engines, engine_table, engines, open_engine
from seg_perception.engines.tensorrt.versions import LIBRARIES
from seg_perception.scenes import random_scene

pytestmark = pytest.mark.timeout(600)
SIZE = Size(160, 96)


@pytest.fixture(scope="module", params=list(engines()))
def spec(request: pytest.FixtureRequest) -> EngineSpec:
    found = engines()[request.param]
    reason = found.why_not()
    if reason is not None:
        pytest.skip(f"{found.name}: {reason}")
    return found


@pytest.fixture(scope="module")
def engine(spec: EngineSpec, driving_model: Path) -> Iterator[Engine]:
    with open_engine(driving_model, spec.name, threads=2) as opened:
        yield opened


def scenes(count: int, size: Size = SIZE) -> np.ndarray:
    """uint8 [count, H, W, 3]."""
    return np.stack(
        [random_scene(seed, Size(160, 128)).image[: size.height, : size.width] for seed in range(1, count + 1)]
    )


def test_it_declares_itself(spec: EngineSpec, engine: Engine, driving_model: Path) -> None:
    assert engine.info.runtime in spec.name
    assert (engine.info.device == "CPU") is (spec.device.value == "CPU")
    assert engine.card.name == read_card(driving_model).name
    assert spec.summary


def test_it_answers_as_the_reference_does(engine: Engine, driving_model: Path) -> None:
    images = scenes(1)
    with open_engine(driving_model, "onnxruntime", threads=2) as reference:
        expected, expected_confidence = reference.infer(images)
    labels, confidence = engine.infer(images)
    check_answer(labels, confidence, images, engine.card)
    assert len(np.unique(expected)) >= 4, "a picture of one class would agree anyhow"
    # fp32 sums in another order: all but ties; bfloat16 and half: 8 and 11 bits of mantissa
    assert np.mean(labels == expected) >= (0.9999 if engine.info.precision == "fp32" else 0.98)
    assert np.abs(confidence.astype(int) - expected_confidence).mean() < 2  # of 255


def test_sizes_and_batches_may_change_and_answers_belong_to_the_caller(engine: Engine) -> None:
    answers = []
    for count, size in ((1, Size(96, 64)), (2, SIZE), (1, Size(96, 64)), (1, Size(64, 128))):
        if engine.info.max_batch is not None and count > engine.info.max_batch:
            continue
        images = scenes(count, size)
        labels, confidence = engine.infer(images)
        check_answer(labels, confidence, images, engine.card)
        again = engine.infer(images)
        np.testing.assert_array_equal(labels, again[0])
        np.testing.assert_array_equal(confidence, again[1])
        answers.append((labels, labels.copy()))
    assert len(answers) >= 3
    for labels, copy in answers:  # later answers do not write into earlier ones
        np.testing.assert_array_equal(labels, copy)
        assert labels.flags.writeable


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((1, 100, 64, 3), np.uint8), "multiples of 32"),
        (np.zeros((1, 64, 64, 3), np.float32), r"uint8 \[N, H, W, 3\] RGB images, got float32"),
        (np.zeros((64, 64, 3), np.uint8), r"got uint8 \[64, 64, 3\]"),
        (np.zeros((0, 64, 64, 3), np.uint8), r"got uint8 \[0, 64, 64, 3\]"),
        (np.zeros((1, 3, 64, 64), np.uint8), r"got uint8 \[1, 3, 64, 64\]"),
    ],
)
def test_what_does_not_fit_is_refused(engine: Engine, images: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.infer(images)


def test_pinned_shapes_are_known(spec: EngineSpec, driving_model: Path, tmp_path: Path) -> None:
    model = onnx.load_from_string(driving_model.read_bytes())
    pin_shapes(model, 1, Size(96, 64))
    path = tmp_path / "pinned.onnx"
    path.write_bytes(model.SerializeToString())
    with open_engine(str(path), spec.name) as engine:
        assert (engine.info.max_batch, engine.info.fixed_size) == (1, Size(96, 64))
        assert engine.infer(np.zeros((1, 64, 96, 3), np.uint8))[0].shape == (1, 64, 96)
        with pytest.raises(InputError, match="built for 96x64"):
            engine.infer(np.zeros((1, 64, 64, 3), np.uint8))
        with pytest.raises(InputError, match="a batch of 2 does not fit"):
            engine.infer(np.zeros((2, 64, 96, 3), np.uint8))


def test_it_closes_itself_and_can_be_opened_again(spec: EngineSpec, driving_model: Path) -> None:
    images, answers = scenes(1, Size(96, 64)), []
    for _ in range(2):
        with open_engine(driving_model, spec.name, threads=1) as engine:
            answers.append(engine.infer(images)[0])
        engine.close()  # twice is harmless
        with pytest.raises(EngineError, match="this engine is closed"):
            engine.infer(images)
    np.testing.assert_array_equal(*answers)
    with pytest.raises(ZeroDivisionError), open_engine(driving_model, spec.name) as engine:
        1 / 0  # noqa: B018
    with pytest.raises(EngineError, match="this engine is closed"):
        engine.infer(images)


def test_what_is_no_model_of_ours_is_refused(spec: EngineSpec, driving_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such model"):
        open_engine(tmp_path / "none.onnx", spec.name)
    path = tmp_path / "model.onnx"
    path.write_bytes(driving_model.read_bytes()[:-100_000])
    with pytest.raises(ModelError, match="not an ONNX file, or truncated"):
        open_engine(path, spec.name)
    with pytest.raises(EngineError, match="threads -1 is not accepted"):
        open_engine(driving_model, spec.name, threads=-1)
    if ".engine" not in spec.suffixes:
        (tmp_path / "model.engine").write_bytes(b"ptrt")
        with pytest.raises(ModelError, match=rf"is a compiled engine; {spec.name} takes the \.onnx file"):
            open_engine(tmp_path / "model.engine", spec.name)


DUMMY = '''
"""An engine as a newcomer writes it: the whole of what must be added."""
from __future__ import annotations

from pathlib import Path

from seg_perception.engines.base import Device, Engine, EngineOptions, EngineSpec
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine


def open_dummy(model: Path, options: EngineOptions) -> Engine:
    return OnnxRuntimeEngine(model, 1)


ENGINES = (
    EngineSpec("dummy", "a box on a string", "onnx", Device.CPU, why_not=lambda: None, open=open_dummy, auto=1,
               suffixes=(".onnx", ".engine")),
)
'''

ASK = """
import contextlib, io, logging, sys
from pathlib import Path
from seg_perception.cli.main import main
assert "seg_perception.engines.dummy" not in sys.modules  # found when it is asked for, not before

def said(*arguments):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), contextlib.suppress(SystemExit):
        main(arguments)
    return " ".join(text.getvalue().split())

assert "dummy" in said("predict", "--help"), "--help"
assert "dummy, tensorrt, tensorrt_rtx" in said("compile", "--help"), "what compiles"
assert "dummy" in said("predict", "a.png", "--out", "out", "--engine", "tpu"), "an unknown name"
from seg_perception.core.errors import EngineError
from seg_perception.core.files import DEFAULT_MODEL
from seg_perception.engines.opening import open_engine
from seg_perception.engines.opening import engine_table
from seg_perception.node_settings import PARAMETERS
(spec,) = (s for s in PARAMETERS if s.name == "engine")
assert "dummy" in spec.choices and "dummy" in spec.accepted() and "first of dummy, " in spec.description, "the node"
assert "| `dummy` | CPU | `pip install 'seg_perception[onnx]'` | 1. | a box on a string |" in engine_table(), "docs"
try:
    open_engine(DEFAULT_MODEL, "tpu")
except EngineError as error:
    assert "dummy" in str(error), "the error"
logging.basicConfig(level=logging.INFO)
with open_engine(DEFAULT_MODEL) as engine:  # it put itself first
    assert engine.info.runtime == "onnxruntime"
print("all found it")
"""


def test_a_new_engine_is_one_file(repository: Path, tmp_path: Path) -> None:
    package, copy = repository / "seg_perception", tmp_path / "seg_perception"
    for folder in ("", "engines"):
        (copy / folder).mkdir()
        for entry in (package / folder).iterdir():
            if entry.name not in ("engines", "__pycache__"):
                (copy / folder / entry.name).symlink_to(entry)
    (copy / "engines" / "dummy.py").write_text(DUMMY)
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all found it\n"
    assert "engine auto: dummy" in done.stderr


def test_the_compiler_s_libraries_are_the_engines_that_open_what_it_writes() -> None:
    assert compiling_engines() == LIBRARIES


def test_the_page_shows_every_engine(repository: Path) -> None:
    page = (repository / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert engine_table() in page, "the table is not what engine_table() gives"
