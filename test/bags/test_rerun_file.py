"""A segmented bag as a Rerun recording, read back with Rerun's own reader; and that nothing is sent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bag_helpers import START, STEP, picture, truth_of, write_bag

from seg_perception.bags.rerun_file import check_rerun
from seg_perception.cli.main import main
from seg_perception.core.errors import InputError

rr = pytest.importorskip("rerun", reason="the extra rerun is not installed")
PREFIX = "/segmentation_node"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("rerun")
    images = [picture(i) for i in range(3)]
    source = write_bag(folder / "in.mcap", images, truths=[truth_of(i) for i in images])
    arguments = ["bag", "process", source, folder / "out.mcap", "--rerun", folder / "out.rrd", "--model", tiny_model]
    assert main([str(argument) for argument in arguments]) == 0
    return folder / "out.rrd"


def test_every_message_is_in_it_at_its_stamp(recorded: Path) -> None:
    recording = rr.dataframe.load_recording(str(recorded))
    components = {(c.entity_path, c.component) for c in recording.schema().component_columns()}
    for name in ("labels", "drivable"):
        assert (f"{PREFIX}/{name}", "SegmentationImage:buffer") in components
    assert (f"{PREFIX}/confidence", "Image:buffer") in components
    assert {("/image", "EncodedImage:blob"), ("/", "AnnotationContext:context")} <= components
    table = recording.view(index="stamp", contents=f"{PREFIX}/labels").select().read_all()
    stamps = [value.value for value in table["stamp"]]
    assert stamps == [START + i * STEP for i in range(3)]
    buffers = table[f"{PREFIX}/labels:SegmentationImage:buffer"].to_pylist()
    for index, buffer in enumerate(buffers):  # exactly the class ids
        expected = truth_of(picture(index))
        np.testing.assert_array_equal(np.array(buffer[0], np.uint8).reshape(expected.shape), expected)


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"drive\.mcap: a Rerun recording is written as NAME\.rrd"):
        check_rerun(tmp_path / "drive.mcap")
    (tmp_path / "kept.rrd").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="exists already"):
        check_rerun(tmp_path / "kept.rrd")
    assert (tmp_path / "kept.rrd").read_bytes() == b"mine"


_WATCH = """
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>
static void tell(void) { static const char text[] = "SOCKET USED\\n"; (void)!write(2, text, sizeof text - 1); }
int connect(int s, const struct sockaddr *a, socklen_t l) {
  (void)s; (void)l;
  if (a && (a->sa_family == AF_INET || a->sa_family == AF_INET6)) tell();
  errno = ECONNREFUSED; return -1; }
int bind(int s, const struct sockaddr *a, socklen_t l) {
  (void)s; (void)l;
  if (a && (a->sa_family == AF_INET || a->sa_family == AF_INET6)) tell();
  errno = EACCES; return -1; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to watch the system calls with")
def test_nothing_connects_and_nothing_listens(recorded: Path, tmp_path: Path) -> None:
    """Rerun is native code, so a library in front of libc's connect and bind watches it."""
    (tmp_path / "watch.c").write_text(_WATCH)
    library = tmp_path / "watch.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "watch.c")], check=True)
    code = (
        "import sys; from pathlib import Path; from seg_perception.bags.rerun_file import write_rerun\n"
        "from seg_perception.core.label_set import load_label_set\n"
        "report = write_rerun(Path(sys.argv[1]), Path(sys.argv[2]), load_label_set('driving'))\n"
        "print(sum(report.written.values()))\n"
    )
    probe = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"

    def watched(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["env", f"LD_PRELOAD={library}", sys.executable, *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)

    assert "SOCKET USED" in watched("-c", probe).stderr  # the watch works
    run = watched("-c", code, str(recorded.with_name("out.mcap")), str(tmp_path / "again.rrd"))
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 10
    assert "SOCKET USED" not in run.stderr
    assert (tmp_path / "again.rrd").stat().st_size > 1000
