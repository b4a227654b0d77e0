from __future__ import annotations

from pathlib import Path

import pytest
from bag_helpers import contents, noise, write_bag

from seg_perception.bags import salvage
from seg_perception.bags.salvage import recover
from seg_perception.core.errors import InputError
from seg_perception.core.types import Size

NOISE = [noise(i, Size(320, 240)) for i in range(30)]  # 230 KB each


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A bag of several chunks (a chunk is closed after a megabyte)."""
    return write_bag(tmp_path / "whole.mcap", NOISE)


def test_all_whole_chunks_of_a_cut_file_are_saved(tmp_path: Path, whole: Path) -> None:
    content = whole.read_bytes()
    (tmp_path / "cut.mcap").write_bytes(content[: len(content) * 45 // 100])
    recovery = recover(tmp_path / "cut.mcap", tmp_path / "saved.mcap")
    saved = contents(tmp_path / "saved.mcap")
    # chunks hold 5 messages (5 x 230415 > 2^20), and 45 % of 30 messages are 13.5: two whole chunks
    assert len(saved) == recovery.recovered["/image"] == 10
    assert saved == contents(whole)[:10]
    assert recovery.lost_bytes > 0
    assert recovery.damaged_chunks == 0


def test_an_undamaged_file_is_saved_whole(tmp_path: Path, whole: Path) -> None:
    recover(whole, tmp_path / "saved.mcap")
    assert contents(tmp_path / "saved.mcap") == contents(whole)


def test_a_damaged_chunk_in_between_is_left_out(tmp_path: Path, whole: Path) -> None:
    content = bytearray(whole.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    (tmp_path / "bad.mcap").write_bytes(content)
    recovery = recover(tmp_path / "bad.mcap", tmp_path / "saved.mcap")
    assert (recovery.damaged_chunks, recovery.recovered["/image"]) == (1, 25)


def test_what_is_behind_the_end_of_a_cut_table_is_not_counted_as_rows(tmp_path: Path) -> None:
    """SQLite names no number of rows that it cannot read; each try to read behind the last one is none."""
    content = write_bag(tmp_path / "whole.db3", NOISE).read_bytes()
    (tmp_path / "cut.db3").write_bytes(content[: len(content) // 2])
    losses = salvage.Losses()
    saved = list(salvage.readable_rows(tmp_path / "cut.db3", losses, gap=100))
    assert 0 < len(saved) < len(NOISE)
    (reason, count), *others = losses.left_out.items()
    assert (reason.startswith("end of the table of messages, all behind row "), count, others) == (True, 1, [])


def test_what_holds_nothing_is_refused(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "start.mcap").write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(InputError, match="there is no whole message in it"):
        recover(tmp_path / "start.mcap", tmp_path / "saved.mcap")
    (tmp_path / "no.mcap").write_bytes(b"something else")
    with pytest.raises(InputError, match="is not an MCAP file"):
        recover(tmp_path / "no.mcap", tmp_path / "saved.mcap")
    assert not (tmp_path / "saved.mcap").exists()
