"""Files that lie: each is refused in one line, or read, at once and with little memory.

Every file goes through `info`, `process` and `recover` in one process with 500 MB of address space
beyond what Python with its libraries has taken; what expands to gigabytes would end it.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from bag_helpers import write_tiny_model
from hand_made import (
    MAGIC,
    METADATA,
    RULE,
    TALK,
    channel,
    chunk,
    folder,
    header,
    image_parts,
    mcap,
    message,
    record,
    schema,
    sqlite_bag,
    talk_parts,
)

GIGABYTE = 2**30
NESTED = (
    "".join(
        (f"{RULE}MSG: a_msgs/T{i}\n" if i else "") + "".join(f"a_msgs/T{i + 1} f{k}\n" for k in range(10))
        for i in range(40)
    )
    + f"{RULE}MSG: a_msgs/T40\nint8 x\n"
)  # 10 ** 40 fields


def zeros(size: int, sized: bool = True) -> bytes:
    """That many zeros in a few kilobytes of zstd, made piece by piece."""
    squeeze = zstandard.ZstdCompressor().compressobj(size=size if sized else -1)
    return b"".join(squeeze.compress(bytes(2**24)) for _ in range(size // 2**24)) + squeeze.flush()


def image_defined_as(definition: str) -> tuple[bytes, ...]:
    return schema(1, "sensor_msgs/msg/Image", definition), channel(1, 1, "/image"), message(1, 5)


def lying_mcaps() -> dict[str, tuple[bytes, ...]]:
    talk = talk_parts()
    bomb = zeros(GIGABYTE)
    return {
        "claims_4_tb": (*talk, chunk(b"x" * 99, 2**42, "zstd")),
        "expands": (*talk, chunk(bomb, 1000, "zstd")),
        "expands_and_says_so": (*talk, chunk(bomb, GIGABYTE, "zstd")),
        "expands_without_a_size": (*talk, chunk(zeros(GIGABYTE, sized=False), 1000, "zstd")),
        "expands_lz4": (*talk, chunk(lz4.frame.compress(bytes(2**28)), 1000, "lz4")),
        "many_chunks": (*talk, *[chunk(zeros(2**24), 2**24, "zstd")] * 64),
        "unknown_compression": (*talk, chunk(b"xx", 2, "brotli")),
        "length_2_62": (*talk, record(5, b"")[:1] + (2**62).to_bytes(8, "little")),
        "text_length": (schema(1, "a"), record(4, b"\1\0\1\0" + (2**31).to_bytes(4, "little") + b"/a"), message(1, 5)),
        "no_utf8": (schema(1, b"\xff"), channel(1, 1, b"/\xff"), message(1, 5)),
        "no_schema": (channel(1, 1, "/a"), message(1, 5)),
        "no_channel": (schema(1, "a"), message(1, 5)),
        "short_message": (*talk, record(5, b"abc")),
        "short_schema": (record(3, b"a"), channel(1, 1, "/a"), message(1, 5)),
        "short_channel": (schema(1, "a"), record(4, b"\1"), message(1, 5)),
        "qos_bomb": (schema(1, "a"), channel(1, 1, "/a", qos="a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]"), message(1, 5)),
        "qos_deep": (schema(1, "a"), channel(1, 1, "/a", qos="[" * 100_000), message(1, 5)),
        "unknown_type": image_defined_as("b_msgs/B b\n"),
        "recursive_type": image_defined_as("sensor_msgs/Image a\n"),
        "mutual_type": image_defined_as(f"b_msgs/B b\n{RULE}MSG: b_msgs/B\nsensor_msgs/Image a\n"),
        "nested_type": image_defined_as(NESTED),
        "large_array": image_defined_as("int8[4000000000] a\n"),
        "junk_type": image_defined_as("(" * 30_000),
        "long_type": image_defined_as("int8 a\n" * 400_000),
        "code_in_type": image_defined_as('uint8 X="""+__import__("os").abort()+"""\nstring s "\\");exit(3);(\\""\n'),
    }


def lying_rows() -> dict[str, str]:
    return {
        "text_time": "INSERT INTO messages VALUES (2, 1, 'now', x'00')",
        "text_data": "INSERT INTO messages VALUES (2, 1, 6, 'text')",
        "null_data": "INSERT INTO messages VALUES (2, 1, 6, NULL)",
        "float_time": "INSERT INTO messages VALUES (2, 1, 6.5, x'00')",
        "no_topic": "INSERT INTO messages VALUES (2, 77, 6, x'00')",
        "binary_name": "UPDATE topics SET name = x'ff'",
        "no_type": "UPDATE topics SET type = NULL",
        "no_columns": "DROP TABLE messages; CREATE TABLE messages (x)",
        "view": "DROP TABLE messages; CREATE VIEW messages AS"
        " WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
        " SELECT x AS id, 1 AS topic_id, x AS timestamp, zeroblob(1000000) AS data FROM n",
        "long": "INSERT INTO messages VALUES (2, 1, 6, zeroblob(300000000))",
        "computed": "DROP TABLE messages; CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id, timestamp,"
        " data AS (zeroblob(1000000000))); INSERT INTO messages (topic_id, timestamp) VALUES (1, 5)",
    }


def lying_metadata() -> dict[str, str | bytes]:
    levels = "bcdefghijklm"
    aliases = "".join(f"{n}: &{n} [{', '.join([f'*{chr(ord(n) - 1)}'] * 9)}]\n" for n in levels)
    merges = "".join(f"{n}: &{n} {{<<: [{', '.join([f'*{chr(ord(n) - 1)}'] * 9)}]}}\n" for n in levels)
    return {
        "aliases": f"a: &a [x]\n{aliases}{METADATA}",
        "merges": f"a: &a {{x: 1}}\n{merges}{METADATA}",
        "deep": f"a: {'[' * 200_000}\n{METADATA}",
        "digits": METADATA.replace("version: 5", f"version: {'9' * 5000}"),
        "binary": b"\xff\xfe\0",
        "list": "[1, 2]",
        "negative": METADATA.replace("message_count: 1\n  topics", "message_count: -3\n  topics"),
        "outside": METADATA.replace("[x_0.mcap]", "['../../../../etc/passwd', /dev/zero]"),
        "dots": METADATA.replace("[x_0.mcap]", "['..']"),
        "large": "a: b\n" * 8_000_000,
    }


def make_all(place: Path) -> list[Path]:
    for name, parts in lying_mcaps().items():
        mcap(place / f"{name}.mcap", *parts)
    for name, statements in lying_rows().items():
        sqlite_bag(place / f"{name}.db3", lambda d, s=statements: d.executescript(s))
    for name, metadata in lying_metadata().items():
        folder(place / name, metadata)
    os.mkfifo(place / "fifo.mcap")
    os.mkfifo(place / "fifo.db3")
    (place / "zero.mcap").symlink_to("/dev/zero")
    (folder(place / "fifo_inside") / "x_0.mcap").unlink()
    os.mkfifo(place / "fifo_inside" / "x_0.mcap")
    (place / "fifo_metadata").mkdir()
    os.mkfifo(place / "fifo_metadata" / "metadata.yaml")
    sqlite_bag(place / "fifo_beside.db3")
    os.mkfifo(place / "fifo_beside.db3-wal")
    (place / "bomb.db3.zstd").write_bytes(zeros(GIGABYTE))
    start = MAGIC + header() + record(0x80, b"")[:1] + GIGABYTE.to_bytes(8, "little")
    (place / "bomb.mcap.zstd").write_bytes(zstandard.compress(start) + zeros(GIGABYTE))
    return sorted(path for path in place.iterdir() if path.suffix != ".db3-wal")


PROGRAM = """
import faulthandler, resource, sys, time
from pathlib import Path
from seg_perception.cli.main import main
import seg_perception.bags.processing, seg_perception.bags.salvage

model, saved, *paths = sys.argv[1:]
first = Path(paths[0])
for path in (first, *map(Path, paths)):
    if path is first:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    out = f"{saved}/{path.name}"
    for command in (["info", str(path)], ["recover", str(path), f"{out}.saved.mcap", "--overwrite"],
                    ["process", str(path), f"{out}.out.mcap", "--model", model, "--overwrite"]):
        print("@@", path.name, command[0], file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(60, exit=True)  # a hang
        code = main(["bag", *command])
        faulthandler.cancel_dump_traceback_later()
        print("@=", code, file=sys.stderr, flush=True)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 500 * 2**20, resource.RLIM_INFINITY))
"""


@pytest.mark.timeout(300)
def test_files_that_lie_are_refused_in_one_line(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "files").mkdir()
    (tmp_path / "saved").mkdir()
    good = mcap(tmp_path / "good.mcap", *image_parts())
    paths = [good, *make_all(tmp_path / "files")]
    assert len(paths) == 1 + 25 + 11 + 10 + 6 + 2
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(tmp_path / "saved"), *map(str, paths)],
        check=False, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    runs = done.stderr.split("@@ ")[1:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert len(runs) == 3 * (len(paths) + 1), f"ended by {runs[-1][-2000:]}"
    for run in runs:
        name, command, *_ = run.split()
        said, _, code = run.rpartition("@= ")
        status = int(code.split()[0])
        assert status in (0, 1, 2), run
        if status == 2:
            (line,) = [part for part in said.splitlines() if part.startswith("seg-perception bag ")]
            assert str(tmp_path) in line, f"{name} {command}: {line}"
        if command == "process" and name != "good.mcap":
            assert status in (1, 2), run
    outputs = {path.name for path in (tmp_path / "saved").iterdir()}
    assert not [name for name in outputs if not name.endswith(".mcap")], "nothing unfinished is left"


def test_rows_of_the_wrong_type_are_named_and_the_others_recovered(tmp_path: Path) -> None:
    from seg_perception.bags.reader import BagReader
    from seg_perception.bags.salvage import recover
    from seg_perception.core.errors import InputError

    def edit(database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO messages VALUES (2, 1, 'now', ?)", (TALK,))
        database.execute("INSERT INTO messages VALUES (3, 77, 7, ?)", (TALK,))
        database.execute("INSERT INTO messages VALUES (4, 1, 8, ?)", (TALK,))

    path = sqlite_bag(tmp_path / "a.db3", edit)
    with pytest.raises(InputError, match=r"a\.db3 is damaged .* 1 messages of topic 1 hold no bytes, or have no time"):
        BagReader(path)
    recovery = recover(path, tmp_path / "saved.mcap")
    assert recovery.recovered == {"/talk": 2}
    assert recovery.left_out == {
        "message that holds no bytes, or has no time": 1,
        "message of topic 77, which is not listed": 1,
    }
