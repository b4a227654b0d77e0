"""Engine files: the key, the two files, and everything that must be recognized before a plan is loaded."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seg_perception.core.errors import EngineError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Precision, Size
from seg_perception.engines.cuda import Gpu
from seg_perception.engines.graph import InputSizes
from seg_perception.engines.tensorrt.build import BuildStoppedError, BuiltEngine
from seg_perception.engines.tensorrt.file import make_private_folder, read_engine, sidecar, sole_builder, write_engine
from seg_perception.engines.tensorrt.plan import BuildSettings, EngineKey, cached_name, default_cache_folder, engine_key
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

FP16 = Precision.FP16
CARD = ModelCard("test", "1", "none", load_label_set("driving"), Size(64, 32), 32, FP16, "0" * 64)
BUILT = BuiltEngine(content=bytes(range(256)) * 16, seconds=1.0, layers=7, dla_layers=(), gpu_fallback_layers=())
ORIN = Gpu("Orin", "8.7")
PLAIN = TensorRtLibrary("tensorrt", sys, "10.3.0.30")
RTX = TensorRtLibrary("tensorrt_rtx", sys, "1.7.1.116")


def sizes_for(settings: BuildSettings) -> InputSizes:
    size = settings.camera_size or settings.size or CARD.input_size
    return InputSizes(size, size, size)


SIZES = sizes_for(BuildSettings())


def key(**changes: object) -> EngineKey:
    made = engine_key(b"onnx", SIZES, BuildSettings(), FP16, PLAIN, ORIN)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    write_engine(path, key(), CARD, BUILT)
    return path


def test_written_and_read_back(written: Path) -> None:
    file = read_engine(written, key())
    assert file.content == BUILT.content
    assert file.card == CARD
    assert file.key == key()
    assert written.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in written.parent.iterdir()) == ["model.engine", "model.engine.json"]


@pytest.mark.parametrize(
    "settings, precision, library, gpu, content",
    [
        (BuildSettings(batch=2), FP16, PLAIN, ORIN, b"onnx"),
        (BuildSettings(size=Size(96, 64)), FP16, PLAIN, ORIN, b"onnx"),
        (BuildSettings(camera_size=Size(96, 64)), FP16, PLAIN, ORIN, b"onnx"),
        (BuildSettings(workspace_mib=64), FP16, PLAIN, ORIN, b"onnx"),
        (BuildSettings(optimization_level=5), FP16, PLAIN, ORIN, b"onnx"),
        (BuildSettings(dla_core=0), FP16, PLAIN, ORIN, b"onnx"),
        (BuildSettings(hardware_compatible=True), FP16, PLAIN, ORIN, b"onnx"),
        (BuildSettings(), Precision.FP32, PLAIN, ORIN, b"onnx"),
        (BuildSettings(), FP16, TensorRtLibrary("tensorrt", sys, "10.3.0.31"), ORIN, b"onnx"),
        (BuildSettings(), FP16, RTX, None, b"onnx"),
        (BuildSettings(), FP16, PLAIN, Gpu("Orin", "8.6"), b"onnx"),
        (BuildSettings(), FP16, PLAIN, Gpu("Thor", "8.7"), b"onnx"),
        (BuildSettings(), FP16, PLAIN, ORIN, b"other onnx"),
    ],
)
def test_whatever_changes_the_engine_changes_its_key_and_its_file(
    settings: BuildSettings, precision: Precision, library: TensorRtLibrary, gpu: Gpu | None, content: bytes
) -> None:
    other = engine_key(content, sizes_for(settings), settings, precision, library, gpu)
    assert other.digest != key().digest
    assert cached_name(CARD, other) != cached_name(CARD, key())
    assert len(other.differences(key())) >= 1


def test_targets_are_part_of_an_rtx_key() -> None:
    for_any, for_ada, for_blackwell = (
        engine_key(b"onnx", SIZES, BuildSettings(target=target), FP16, RTX, None) for target in (None, "sm89", "sm120")
    )
    assert (for_any.capability, for_ada.capability, for_blackwell.capability) == ("any", "8.9", "12.0")


def test_plain_tensorrt_needs_the_gpu() -> None:
    with pytest.raises(EngineError, match=r"TensorRT 10.3.0.30 builds for the GPU in the machine, and there is none"):
        engine_key(b"onnx", SIZES, BuildSettings(), FP16, PLAIN, None)


def test_a_truncated_engine_is_recognized(written: Path) -> None:
    written.write_bytes(BUILT.content[:1000])
    with pytest.raises(EngineError, match=r"is truncated: 1000 of 4096 bytes; build it anew: seg-perception compile"):
        read_engine(written, key())


def test_a_changed_engine_is_recognized(written: Path) -> None:
    changed = bytearray(BUILT.content)
    changed[2000] ^= 1
    written.write_bytes(changed)
    with pytest.raises(EngineError, match=r"was changed after it was built \(SHA-256 differs\)"):
        read_engine(written, key())


def test_a_stale_engine_is_recognized_and_says_what_changed(written: Path) -> None:
    needed = key(onnx_sha256="f" * 64, library_version="10.7.0")
    with pytest.raises(EngineError, match=r"is stale or was built elsewhere") as caught:
        read_engine(written, needed)
    assert "library version: built for 10.3.0.30, needed 10.7.0" in str(caught.value)
    assert "onnx sha256: built for " in str(caught.value)
    assert str(caught.value).count("built for") == 2


def test_an_engine_of_another_tool_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.engine"
    path.write_bytes(b"ptrt" + bytes(100))
    with pytest.raises(
        EngineError, match=r"has no foreign.engine.json beside it, so nothing says what it was built for"
    ):
        read_engine(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not JSON"),
        ("[]", "is not of format 2"),
        ('{"format": 1}', "is not of format 2"),
        ('{"format": 2}', "cannot be used: 'key'"),
        ('{"format": 2, "key": {"gpu": "x"}}', "cannot be used"),
        ('{"format": 2, "key": {"gpu": NaN}}', "cannot be used"),
        ("[" * 100_000, "is not JSON"),
        ('{"format": 1e999}', "is not of format 2"),
    ],
)
def test_a_damaged_description_is_refused(written: Path, text: str, message: str) -> None:
    sidecar(written).write_text(text)
    with pytest.raises(EngineError, match=message):
        read_engine(written)


def test_a_missing_engine_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_engine(tmp_path / "none.engine")


def test_a_folder_that_others_can_write_is_refused(written: Path) -> None:
    written.parent.chmod(0o777)
    with pytest.raises(EngineError, match=r"can be written by other users \(drwxrwxrwx\).*run: chmod go-w"):
        read_engine(written)


@pytest.mark.parametrize("which", ["engine", "description"])
@pytest.mark.parametrize("mode", [0o620, 0o602], ids=["by its group", "by anybody"])
def test_a_file_that_others_can_write_is_refused(written: Path, which: str, mode: int) -> None:
    path = written if which == "engine" else sidecar(written)
    path.chmod(mode)
    with pytest.raises(EngineError, match=rf"{path.name} can be written by other users .* run: chmod go-w"):
        read_engine(written, key())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["engine", "description", "folder"])
def test_what_belongs_to_somebody_else_is_refused(written: Path, which: str) -> None:
    path = {"engine": written, "description": sidecar(written), "folder": written.parent}[which]
    os.chown(path, 12345, -1)
    with pytest.raises(EngineError, match=r"belongs to user 12345; engines are loaded only from your own or root's"):
        read_engine(written, key())


def test_a_link_into_an_open_folder_is_refused_and_one_into_a_private_folder_is_followed(
    written: Path, tmp_path: Path
) -> None:
    mine, shared = tmp_path / "mine", tmp_path / "shared"
    mine.mkdir(mode=0o700)
    shared.mkdir(mode=0o700)
    for file in (written, sidecar(written)):
        file.rename(shared / file.name)
        (mine / file.name).symlink_to(shared / file.name)
    assert read_engine(mine / written.name, key()).content == BUILT.content
    shared.chmod(0o777)
    with pytest.raises(EngineError, match=rf"{shared} can be written by other users"):
        read_engine(mine / written.name, key())


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.engine", 0o600)
    (tmp_path / "folder.engine").mkdir()
    for name in ("pipe.engine", "folder.engine"):
        with pytest.raises((EngineError, OSError), match=r"is not a regular file|Is a directory"):
            read_engine(tmp_path / name)
    (tmp_path / "circle.engine").symlink_to(tmp_path / "circle.engine")
    with pytest.raises(OSError, match="symbolic links"):
        read_engine(tmp_path / "circle.engine")


def test_the_cache_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = default_cache_folder()
    make_private_folder(folder)
    assert folder == tmp_path / "seg_perception" / "engines"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_names_of_files_hold_no_surprises() -> None:
    card = dataclasses.replace(CARD, name="../../etc/passwd")
    assert (Path("/cache") / cached_name(card, key())).parent == Path("/cache")


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Files may grow to `limit` bytes only, as on a full disk (the kernel says EFBIG instead of ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [0, 1000], ids=["nothing fits", "a part fits"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "model.engine"
    with full_disk(limit), pytest.raises(OSError, match="cannot write 4096 bytes") as caught:
        write_engine(path, key(), CARD, BUILT)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_replacing_leaves_no_engine_that_could_be_taken_for_the_new_one(written: Path) -> None:
    with full_disk(100), pytest.raises(OSError, match="cannot write"):
        write_engine(written, key(batch=2), CARD, BUILT)
    with pytest.raises(EngineError, match=r"has no model\.engine\.json"):
        read_engine(written)


KILLED_HALF_WAY = """
import sys, time
from pathlib import Path
import seg_perception.core.files as files

class SlowDisk:
    def __init__(self, file): self.file = file
    def __getattr__(self, name): return getattr(self.file, name)
    def __enter__(self): return self
    def __exit__(self, *rest): self.file.close()
    def write(self, content):
        self.file.write(content[: len(content) // 2]); self.file.flush()
        print("half-way", flush=True)
        time.sleep(60)

original = files.os.fdopen
files.os.fdopen = lambda *arguments: SlowDisk(original(*arguments))
files.write_atomically(Path(sys.argv[1]), bytes(1 << 20))
"""


def test_killed_half_way_no_engine_of_that_name_is_there(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_HALF_WAY, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert not path.exists()
    (leftover,) = tmp_path.iterdir()
    assert leftover.stat().st_size == 1 << 19  # half of it
    os.utime(leftover, (0, 0))  # as if that was long ago
    write_engine(path, key(), CARD, BUILT)
    assert read_engine(path, key()).content == BUILT.content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.engine", "model.engine.json"]


def test_the_description_is_for_people_too(written: Path) -> None:
    document = json.loads(sidecar(written).read_text())
    assert document["key"]["gpu"] == "Orin"
    assert document["build"] == {"seconds": 1.0, "layers": 7, "dla_layers": [], "gpu_fallback_layers": []}


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("batch", "3", r"batch: '3' is not accepted"),
        ("gpu", None, "gpu: None is not accepted"),
        ("input_sizes", "480x352", "input_sizes: a table is expected"),
        ("input_sizes", {"smallest": "1x1", "tuned": "big", "largest": "9x9"}, "'big' is not accepted"),
        ("precision", "bf8", "precision: 'bf8' is not accepted"),
        ("hardware_compatible", 1, "hardware_compatible: 1 is not accepted"),
        ("color", "red", "color: unknown"),
    ],
)
def test_a_description_with_odd_values_is_refused(written: Path, name: str, value: object, message: str) -> None:
    document = json.loads(sidecar(written).read_text())
    document["key"][name] = value
    sidecar(written).write_text(json.dumps(document))
    with pytest.raises(EngineError, match=rf"model\.engine\.json cannot be used: (?s:.*){message}(?s:.*)build it anew"):
        read_engine(written)


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    with sole_builder(path):
        with pytest.raises(BuildStoppedError, match=f"stopped while waiting for another process to build {path}"):  # noqa: SIM117
            with sole_builder(path, stop_requested=lambda: True):
                pytest.fail("two builders at once")
        with sole_builder(tmp_path / "other.engine"):
            pass
    with sole_builder(path, stop_requested=lambda: True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_builder_that_was_killed_does_not_keep_the_next_one_waiting(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from seg_perception.engines.tensorrt.file import sole_builder\n"
        "with sole_builder(Path(sys.argv[1])):\n print('building', flush=True)\n time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        with pytest.raises(BuildStoppedError), sole_builder(path, stop_requested=lambda: True):
            pytest.fail("two builders at once")
        process.kill()
        process.wait(30)
    with sole_builder(path, stop_requested=lambda: True):
        pass


def test_a_builder_needs_a_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write"), sole_builder(tmp_path / "none" / "model.engine"):
        pytest.fail("there is no such folder")
