"""Bit flips and cuts at random places, with fixed seeds: the true messages, or one line that says what is wrong.

The short run is part of `make test`; `make verify-slow` makes nine hundred damages.
"""

from __future__ import annotations

import random
import resource
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bag_helpers import START, STEP, noise, picture

from seg_perception.bags import messages
from seg_perception.bags.reader import BagReader
from seg_perception.bags.salvage import recover
from seg_perception.bags.types import OfferedQos, TypeDefinition
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import SegPerceptionError
from seg_perception.core.types import Size

Held = list[tuple[str, str, int, bytes]]
TALK = TypeDefinition("std_msgs/msg/String", "string data\n")
MEMORY = 500 * 2**20


def write(path: Path, compress: bool = True) -> Path:
    """Images of two chunks and a talk, 24 messages."""
    with BagWriter(path, compress=compress) as bag:
        bag.add_topic("/image", messages.IMAGE)
        bag.add_topic("/talk", TALK, OfferedQos(reliable=False))
        for i in range(12):
            stamp = START + i * STEP
            header = messages.header(stamp, "camera")
            size = Size(320, 240)
            pixels = noise(i, size) if i % 2 else picture(i, size)
            bag.write("/image", stamp, messages.image(pixels, header))
            bag.write_raw("/talk", stamp, b"\0\1\0\0\3\0\0\0ab\0")
    return path


def held(path: Path) -> Held:
    with BagReader(path) as bag:
        return [(m.topic.name, m.topic.type, m.stamp_ns, m.data) for m in bag.messages()]


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Held]]:
    """Content and messages of each kind of file."""
    folder = tmp_path_factory.mktemp("whole")
    paths = {
        "zstd.mcap": write(folder / "zstd.mcap"),
        "plain.mcap": write(folder / "plain.mcap", compress=False),
        "bag.db3": write(folder / "bag.db3"),
    }
    return {name: (path.read_bytes(), held(path)) for name, path in paths.items()}


def damages(content: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """One to three flipped bits, half of the time in the last 4 KB (the index); or a cut."""
    chance = random.Random(seed)
    for _ in range(count):
        if chance.random() < 0.2:
            end = chance.randrange(len(content))
            yield f"cut at {end}", content[:end]
            continue
        flipped = bytearray(content)
        places = []
        for _ in range(chance.choice((1, 1, 1, 3))):
            near_end = chance.random() < 0.5
            place = chance.randrange(max(0, len(content) - 4096) if near_end else 0, len(content))
            bit = chance.randrange(8)
            flipped[place] ^= 1 << bit
            places.append(f"{place}.{bit}")
        yield f"flipped {', '.join(places)}", bytes(flipped)


def check_line(error: Exception, what: str) -> None:
    """One line that names the file."""
    assert "\n" not in str(error), f"{what}: {error}"
    assert "/" in str(error), f"{what}: {error}"


def check(name: str, whole: Held, damaged: bytes, what: str, folder: Path) -> Counter[str]:
    """Read and recover one damaged file; what came of it."""
    path, saved = folder / name, folder / "saved.mcap"
    path.write_bytes(damaged)
    outcome: Counter[str] = Counter()
    try:
        found = held(path)
    except (SegPerceptionError, OSError) as error:
        check_line(error, what)
        outcome["refused"] += 1
    else:
        # what a checksum covers is true; elsewhere no message may be missing
        assert len(found) == len(whole), f"{what}: {len(found)} of {len(whole)} messages without a word"
        if name == "zstd.mcap":
            assert [m[2:] for m in found] == [m[2:] for m in whole], what
        outcome["read" if found == whole else "read, with bits that nothing covers"] += 1
    try:
        recovery = recover(path, saved, overwrite=True)
    except (SegPerceptionError, OSError) as error:
        check_line(error, what)
        outcome["nothing recovered"] += 1
    else:
        count = sum(recovery.recovered.values())
        known = recovery.damaged_chunks + recovery.lost_bytes + sum(recovery.left_out.values())
        assert count >= len(whole) or known, f"{what}: recovered {count} of {len(whole)} without a word"
        assert len(held(saved)) == count
        outcome["recovered all" if count >= len(whole) else "recovered a part"] += 1
    return outcome


def run(bags: dict[str, tuple[bytes, Held]], folder: Path, count: int) -> dict[str, Counter[str]]:
    outcomes = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # other tests of this process have their own needs
    for seed, (name, (content, whole)) in enumerate(bags.items()):
        outcomes[name] = sum((check(name, whole, d, w, folder) for w, d in damages(content, seed, count)), Counter())
    # the process has kept within the memory that one file may take
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2 * MEMORY
    return outcomes


def test_a_few_damages(bags: dict[str, tuple[bytes, Held]], tmp_path: Path) -> None:
    outcomes = run(bags, tmp_path, 15)
    assert all(sum(outcome.values()) == 30 for outcome in outcomes.values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_damages(bags: dict[str, tuple[bytes, Held]], tmp_path: Path) -> None:
    for name, outcome in run(bags, tmp_path, 300).items():
        print(name, dict(outcome))


def test_every_bit_of_a_summary(bags: dict[str, tuple[bytes, Held]], tmp_path: Path) -> None:
    """No bit of an MCAP summary can hide a message; every 41st is tried."""
    content, whole = bags["zstd.mcap"]
    summary = int.from_bytes(content[-28:-20], "little")
    outcomes: Counter[str] = Counter()
    for bit in range(summary * 8, len(content) * 8, 41):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a.mcap").write_bytes(flipped)
        try:
            assert held(tmp_path / "a.mcap") == whole, f"bit {bit}"
            outcomes["read"] += 1
        except SegPerceptionError as error:
            check_line(error, f"bit {bit}")
            outcomes["refused"] += 1
    assert outcomes["refused"] > 40
    assert outcomes["read"] == 0  # the summary and the footer have a checksum


def test_one_wrong_bit_in_the_first_chunk_keeps_all_later_ones(
    bags: dict[str, tuple[bytes, Held]], tmp_path: Path
) -> None:
    content, whole = bags["zstd.mcap"]
    chance = random.Random(5)
    for _ in range(6):
        flipped = bytearray(content)
        start = content.index(b"zstd")  # of the first chunk's head; its data begins 12 bytes later
        flipped[start + 12 + chance.randrange(100_000)] ^= 1 << chance.randrange(8)
        (tmp_path / "bad.mcap").write_bytes(flipped)
        recovery = recover(tmp_path / "bad.mcap", tmp_path / "saved.mcap", overwrite=True)
        assert recovery.damaged_chunks == 1
        saved = held(tmp_path / "saved.mcap")
        assert 0 < len(saved) < len(whole)
        assert saved == whole[-len(saved) :]  # all that came after the first chunk, with topics and types


def test_rows_behind_a_damaged_page_are_recovered(bags: dict[str, tuple[bytes, Held]], tmp_path: Path) -> None:
    content, whole = bags["bag.db3"]
    path = tmp_path / "bad.db3"
    path.write_bytes(content)
    with sqlite3.connect(path) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'timestamp_idx'").fetchone()
    database.close()
    broken = bytearray(content)
    broken[(page - 1) * 4096 : page * 4096] = bytes(4096)  # the index by time
    path.write_bytes(broken)
    with pytest.raises(SegPerceptionError, match=r"bad\.db3 is damaged .* 'seg-perception bag recover' saves"):
        held(path)
    recovery = recover(path, tmp_path / "saved.db3")
    assert (sum(recovery.recovered.values()), dict(recovery.left_out)) == (24, {})
    assert held(tmp_path / "saved.db3") == whole


@pytest.mark.parametrize("share", [0.7, 0.95])
def test_the_first_rows_of_a_cut_off_file_are_recovered(
    bags: dict[str, tuple[bytes, Held]], tmp_path: Path, share: float
) -> None:
    content, whole = bags["bag.db3"]
    path = tmp_path / "cut.db3"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SegPerceptionError, match=r"cut\.db3 is damaged .* 'seg-perception bag recover' saves"):
        held(path)
    recovery = recover(path, tmp_path / "saved.db3")
    assert sum(recovery.left_out.values()) > 0
    assert recovery.notes == (f"{path} was cut off: its last {len(content) - path.stat().st_size} bytes are not there",)
    saved = held(tmp_path / "saved.db3")
    assert 5 < len(saved) < 24
    assert set(saved) <= set(whole)
