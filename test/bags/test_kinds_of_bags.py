"""Bags as they are met: every kind is read, or refused by what it is and what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest
import zstandard
from bag_helpers import contents, picture, write_bag
from hand_made import (
    METADATA,
    RULE,
    TALK,
    channel,
    chunk,
    folder,
    image_parts,
    mcap,
    message,
    record,
    schema,
    sqlite_bag,
    talk_parts,
    text,
)

from seg_perception.bags.reader import BagReader
from seg_perception.bags.salvage import recover
from seg_perception.bags.types import OfferedQos
from seg_perception.core.errors import InputError

TALKED = [("/talk", "std_msgs/msg/String", 5, TALK)]
BINARY = b"\x80\x81\xff"  # a protobuf descriptor is no text


@pytest.mark.parametrize(
    "qos",
    ["[]", "''", "[{history: 1, depth: 5, reliability: 2, durability: 2}]", "'- history: nonsense'", "'[['", "7"],
)
def test_topics_are_matched_by_name_and_type_whatever_metadata_says_of_qos(tmp_path: Path, qos: str) -> None:
    path = folder(tmp_path / "bag", METADATA.replace("offered_qos_profiles: ''", f"offered_qos_profiles: {qos}"))
    assert contents(path) == TALKED


def test_metadata_that_announces_more_is_an_error_and_less_is_a_note(tmp_path: Path) -> None:
    more = folder(tmp_path / "more", METADATA.replace("message_count: 1\n  compr", "message_count: 7\n  compr"))
    with pytest.raises(InputError, match=r"announces 7 messages on /talk .*, x_0\.mcap holds 1: 6 are missing"):
        BagReader(more)
    recovery = recover(more, tmp_path / "saved.mcap")
    assert recovery.recovered == {"/talk": 1}
    assert recovery.left_out == {"message on /talk that metadata.yaml announces; it is not there": 6}
    other = folder(tmp_path / "other", METADATA.replace("msg/String", "msg/Bool"))
    with pytest.raises(InputError, match=r"announces 1 messages on /talk \(std_msgs/msg/Bool\), x_0\.mcap holds 0"):
        BagReader(other)
    less = folder(tmp_path / "less", METADATA.replace("message_count: 1\n  compr", "message_count: 0\n  compr"))
    with BagReader(less) as bag:
        assert bag.notes == (f"the files of {less} hold more than its metadata.yaml announces: /talk (1 messages)",)
        assert len(list(bag.messages())) == 1


@pytest.mark.parametrize(
    "old, new, note",
    [
        ("version: 5", "version: 10", "metadata.yaml has version 10; the newest one known here is 9"),
        ("storage_identifier: mcap", "storage_identifier: ''", None),
        ("storage_identifier: mcap", "storage_identifier: my_plugin", None),
        ("[x_0.mcap]", "[some_folder/x_0.mcap]", None),  # version 3 and older
    ],
)
def test_metadata_of_other_versions_is_read(tmp_path: Path, old: str, new: str, note: str | None) -> None:
    path = folder(tmp_path / "bag", METADATA.replace(old, new))
    with BagReader(path) as bag:
        assert [note in found for found in bag.notes] == ([True] if note else [])
    assert contents(path) == TALKED


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "drive.mcap", METADATA.replace("[x_0.mcap]", "[x_0.mcap, x_1.mcap]"))
    with pytest.raises(FileNotFoundError, match=r"drive\.mcap: x_1\.mcap is missing, .*; there: x_0\.mcap"):
        BagReader(path)
    recovery = recover(path, tmp_path / "saved.mcap")
    assert recovery.recovered == {"/talk": 1}
    assert list(recovery.left_out) == [f"{path}: x_1.mcap is missing, which metadata.yaml lists"]


def test_the_total_and_the_keys_of_metadata_count_too(tmp_path: Path) -> None:
    more = folder(tmp_path / "more", METADATA.replace("message_count: 1\n  topics", "message_count: 4\n  topics"))
    with pytest.raises(InputError, match=r"announces 4 messages in all, its files hold 1: 3 are missing"):
        BagReader(more)
    assert sum(recover(more, tmp_path / "more.mcap").left_out.values()) == 3
    twice = folder(tmp_path / "twice", METADATA + "  message_count: 1\n")
    with pytest.raises(InputError, match="the key 'message_count' is given twice"):
        BagReader(twice)


def test_a_part_beside_those_that_metadata_lists_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "bag")
    mcap(path / "x_1.mcap", *talk_parts(stamp=6))
    with BagReader(path) as bag:
        assert bag.notes == (f"x_1.mcap lies in {path}, but metadata.yaml does not list it: not read",)
        assert bag.message_count == 1
    recovery = recover(path, tmp_path / "saved.mcap")
    assert recovery.recovered == {"/talk": 2}
    assert recovery.notes == (f"x_1.mcap lies in {path}, but metadata.yaml does not list it; read, too",)


def test_a_part_that_metadata_lists_twice_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "bag", METADATA.replace("[x_0.mcap]", "[x_0.mcap, x_0.mcap]"))
    with pytest.raises(InputError, match=r"lists x_0\.mcap more than once: its messages would come twice"):
        BagReader(path)
    assert recover(path, tmp_path / "saved.mcap").recovered == {"/talk": 1}


def test_recover_goes_on_beside_a_part_that_is_no_storage_file(tmp_path: Path) -> None:
    path = folder(tmp_path / "bag", METADATA.replace("[x_0.mcap]", "[x_0.mcap, x_1.mcap, x_2.mcap.zstd]"))
    (path / "x_1.mcap").mkdir()
    (path / "x_2.mcap.zstd").write_bytes(zstandard.compress((path / "x_0.mcap").read_bytes())[:-3])
    recovery = recover(path, tmp_path / "saved.mcap")
    assert recovery.recovered["/talk"] == 1
    assert "x_1.mcap: is a folder" in " ".join(recovery.left_out)
    assert "x_2.mcap.zstd is compressed with zstd" in " ".join([*recovery.left_out, *recovery.notes])


def test_the_first_part_that_is_missing_is_said(tmp_path: Path) -> None:
    (path := tmp_path / "bag").mkdir()
    for number in (2, 3):
        mcap(path / f"x_{number}.mcap", *talk_parts(stamp=number))
    with BagReader(path) as bag:
        assert bag.notes[0].endswith("read: x_2.mcap, x_3.mcap; number 0, 1 of its parts is not there")
    mcap(path / "x_5.mcap", *talk_parts())
    assert recover(path, tmp_path / "saved.mcap").notes[0].endswith("number 0, 1, 4 of its parts is not there")


def test_attachments_and_metadata_are_not_copied_and_said(tmp_path: Path) -> None:
    attachment = record(9, bytes(16) + text("calibration.yaml") + text("text/yaml") + bytes(12))
    kept = record(12, text("rosbag2") + text(b""))  # the bag's own metadata: a writer makes it anew
    more = record(12, text("vehicle") + text(text("id") + text("7")))
    path = mcap(tmp_path / "a.mcap", *talk_parts(), attachment, kept, more)
    note = (
        "2 records of the file are no messages, and not read or copied: attachment calibration.yaml, metadata vehicle"
    )
    with BagReader(path) as bag:
        assert bag.notes == (note,)
    assert recover(path, tmp_path / "saved.mcap").notes == (note,)
    with BagReader(tmp_path / "saved.mcap") as bag:
        assert bag.notes == ()


def test_messages_without_chunks_are_checked_by_the_datas_checksum(tmp_path: Path) -> None:
    path = mcap(tmp_path / "a.mcap", *talk_parts())
    content = path.read_bytes()
    end = content.index(record(15, bytes(4)))
    for announced, good in ((zlib.crc32(content[:end]), True), (zlib.crc32(content[:end]) ^ 1, False)):
        path.write_bytes(content.replace(record(15, bytes(4)), record(15, struct.pack("<I", announced))))
        if good:
            assert contents(path) == TALKED
        else:
            with pytest.raises(InputError, match=r"its data fails its checksum; .* saves what is readable"):
                BagReader(path)


def test_topics_without_images_are_told_with_their_types(tmp_path: Path) -> None:
    ros1 = mcap(tmp_path / "a.mcap", schema(1, "sensor_msgs/Image"), channel(1, 1, "/image"), message(1, 5))
    empty = mcap(tmp_path / "b.mcap", schema(1, "sensor_msgs/msg/Image"), channel(1, 1, "/image"))
    for path, words in (
        (ros1, r"has no topic of type sensor_msgs/msg/Image; its topics: /image \(sensor_msgs/Image\)"),
        (empty, "has no message of type sensor_msgs/msg/Image: nothing was recorded on /image"),
    ):
        with BagReader(path) as bag, pytest.raises(InputError, match=words):
            bag.topic_of_type(["sensor_msgs/msg/Image"], "image topic", "/image")


def test_parts_without_metadata_are_read_in_order(tmp_path: Path) -> None:
    for number in (2, 0, 10, 1, *range(3, 10)):
        mcap(tmp_path / f"x_{number}.mcap", *talk_parts(stamp=number))
    with BagReader(tmp_path) as bag:
        assert [m.stamp_ns for m in bag.messages()] == list(range(11))
        assert "has no metadata.yaml" in bag.notes[0]
    (tmp_path / "x_5.mcap").unlink()
    with pytest.raises(InputError, match=r"a part between x_0\.mcap and x_10\.mcap is missing"):
        BagReader(tmp_path)
    mcap(tmp_path / "y_0.mcap", *talk_parts())
    with pytest.raises(InputError, match=r"files of several recordings: .*y_0\.mcap; open one of them"):
        BagReader(tmp_path)


@pytest.mark.parametrize("name", ["x_0.db3", "x_0.mcap"])
def test_compressed_files_are_read_with_and_without_metadata(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bag"
    folder(path, METADATA.replace("x_0.mcap", f"{name}.zstd").replace("format: ''", "format: zstd")
           .replace("mode: ''", "mode: FILE"))  # fmt: skip
    (path / "x_0.mcap").unlink()
    whole = tmp_path / name
    sqlite_bag(whole) if name.endswith("db3") else mcap(whole, *talk_parts())
    (path / f"{name}.zstd").write_bytes(zstandard.compress(whole.read_bytes()))
    assert contents(path) == TALKED
    assert contents(path / f"{name}.zstd") == TALKED
    (path / "metadata.yaml").unlink()
    assert contents(path) == TALKED
    (path / f"{name}.zstd").write_bytes(zstandard.compress(whole.read_bytes())[:-9])
    with pytest.raises(InputError, match=r"zstd, and .* cut off"):
        contents(path)


def test_messages_compressed_one_by_one_are_read(tmp_path: Path) -> None:
    squeezed = zstandard.compress(TALK)
    path = sqlite_bag(tmp_path / "a.db3", lambda d: d.execute("UPDATE messages SET data = ?", (squeezed,)))
    assert contents(path) == TALKED
    recover(path, tmp_path / "saved.mcap")
    assert contents(tmp_path / "saved.mcap") == TALKED


@pytest.mark.parametrize("profile", ["", "ros2", "anything"])
def test_the_profile_does_not_matter(tmp_path: Path, profile: str) -> None:
    assert contents(mcap(tmp_path / "a.mcap", *talk_parts(), profile=profile)) == TALKED


def test_messages_out_of_order_and_outside_of_chunks_are_sorted(tmp_path: Path) -> None:
    parts = schema(1, "std_msgs/msg/String"), channel(1, 1, "/talk")
    inside = message(1, 4) + message(1, 2)
    loose = (message(1, 9), message(1, 1))
    path = mcap(tmp_path / "a.mcap", *parts, *loose, chunk(inside, len(inside), first=2, last=4), message(1, 3))
    assert [m[2] for m in contents(path)] == [1, 2, 3, 4, 9]
    with BagReader(path) as bag:
        assert (bag.start_ns, bag.end_ns, bag.message_count) == (1, 9, 5)
        assert [m.stamp_ns for m in bag.messages(start_ns=2, stop_ns=4)] == [2, 3]


@pytest.mark.parametrize(
    "profile, type_name, encoding, notation, advice",
    [
        ("ros1", "sensor_msgs/Image", "ros1", "ros1msg", "messages of ROS 1.*rosbags-convert --src"),
        ("", "foxglove.CompressedImage", "protobuf", "protobuf", "for Foxglove without ROS.*mcap-protobuf-support"),
        ("", "Log", "json", "jsonschema", "for Foxglove without ROS.*'seg-perception bag make'"),
        ("ros2", "test_msgs/msg/BasicTypes", "wrong_format", "ros2msg", "'ros2 bag convert' there writes cdr"),
    ],
)
def test_recordings_without_ros_2_messages_are_refused_by_what_they_are(
    tmp_path: Path, profile: str, type_name: str, encoding: str, notation: str, advice: str
) -> None:
    parts = schema(1, type_name, BINARY, notation), channel(1, 1, "/image", encoding), message(1, 5, BINARY)
    path = mcap(tmp_path / "a.mcap", *parts, profile=profile)
    with pytest.raises(
        InputError, match=rf"holds no messages of ROS 2, .*/image \({type_name}, {encoding}\); .*{advice}"
    ):
        BagReader(path)
    with pytest.raises(InputError, match=rf"only such as are serialized in {encoding}; the tool 'mcap recover'"):
        recover(path, tmp_path / "saved.mcap")


def test_foreign_channels_beside_ros_2_are_kept(tmp_path: Path) -> None:
    foreign = (
        schema(2, "foxglove.Log", BINARY, "protobuf"), channel(2, 2, "/pb", "protobuf"), message(2, 6, BINARY),
        schema(3, "Log", "{}", "jsonschema"), channel(3, 3, "/js", "json"), message(3, 7, b"{}"),
        channel(4, 0, "/none", "json"), message(4, 8, b"[]"),
    )  # fmt: skip
    path = mcap(tmp_path / "a.mcap", *talk_parts(), *foreign)
    held = [*TALKED, ("/pb", "foxglove.Log", 6, BINARY), ("/js", "Log", 7, b"{}"), ("/none", "", 8, b"[]")]
    assert contents(path) == held
    assert recover(path, tmp_path / "saved.mcap").recovered == {"/talk": 1, "/pb": 1, "/js": 1, "/none": 1}
    assert contents(tmp_path / "saved.mcap") == held
    with BagReader(path) as before, BagReader(tmp_path / "saved.mcap") as after:
        for topic in ("/pb", "/js", "/none"):
            assert after.topic(topic).definition == before.topic(topic).definition
        with pytest.raises(InputError, match=r"messages on /pb are serialized as 'protobuf'; ROS 2's are in cdr"):
            before.decode(next(before.messages(["/pb"])))


def test_what_else_a_file_can_be_is_said(tmp_path: Path) -> None:
    cases = {
        "a.bag": (b"#ROSBAG V2.0\n", r"a\.bag is a ROS 1 bag: convert it with rosbags-convert"),
        "b.mcap": (b"version https://git-lfs.github.com/spec/v1\n", r"is a pointer of Git LFS.*git lfs pull"),
        "c.mcap": (b"<!doctype html>", "is a web page"),
        "d.mcap": (b"PK\x03\x04", "is a ZIP archive: unpack it"),
        "e.mcap": (b"\x1f\x8b\x08", "is compressed with gzip"),
        "f.db3": (b"some words", r"f\.db3 is not a SQLite file, in spite of its name"),
        "g.mcap": (b"", "it is empty; there is no whole message in it"),
        "h.zstd": (zstandard.compress(b"#ROSBAG V2.0\n"), "compressed with zstd, and what is in it is a ROS 1 bag"),
    }
    for name, (content, said) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said):
            BagReader(tmp_path / name)
    # by content, not by name
    sqlite_bag(tmp_path / "sqlite.mcap")
    mcap(tmp_path / "mcap.db3", *talk_parts())
    mcap(tmp_path / "no_suffix", *talk_parts())
    assert [contents(tmp_path / name) for name in ("sqlite.mcap", "mcap.db3", "no_suffix")] == [TALKED] * 3


def leave_journal(path: Path, lines: int, journal: str = "WAL") -> None:
    """A SQLite bag as a killed recorder leaves it: part of its messages in the journal beside it."""
    live = path.with_name("live.db3")
    sqlite_bag(live)
    database = sqlite3.connect(live, isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {journal}")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    for i in range(lines):
        database.execute("INSERT INTO messages VALUES (?, 1, ?, ?)", (i + 2, i + 6, TALK))
    for suffix in ("", "-wal", "-journal"):
        if (left := live.with_name(live.name + suffix)).exists():
            shutil.copyfile(left, path.with_name(path.name + suffix))
    database.close()


def test_messages_in_the_journal_of_a_killed_recorder_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run #1.db3"
    leave_journal(path, 50)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("run*")}
    assert set(before) == {"run #1.db3", "run #1.db3-wal"}
    assert len(contents(path)) == 51
    assert recover(path, tmp_path / "saved.mcap").recovered == {"/talk": 51}
    assert {p.name: p.read_bytes() for p in tmp_path.glob("run*")} == before, "nothing is left beside it"
    plain = sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)
    assert plain.execute("SELECT count(*) FROM messages").fetchone() == (1,)  # which is what was read of it before


@pytest.mark.parametrize("damage", ["cut", "flip", "head", "salt", "last salt", "zeros"])
def test_what_is_lost_of_a_journal_is_as_any_damage(tmp_path: Path, damage: str) -> None:
    """SQLite itself would stop there without a word, and the bag would only seem to be shorter."""
    path = tmp_path / "a.db3"
    leave_journal(path, 50)
    wal = path.with_name("a.db3-wal")
    content = bytearray(wal.read_bytes())
    frame = 24 + int.from_bytes(content[8:12], "big")
    places = {"flip": len(content) // 2, "head": 12, "salt": 32 + 3 * frame + 8, "last salt": len(content) - frame + 13}
    if damage in places:
        content[places[damage]] ^= 1
    wal.write_bytes({"cut": content[:-100], "zeros": content[:-frame] + bytes(frame)}.get(damage, content))
    why = f"{wal} is damaged" if damage == "head" else f"{wal} ends in the middle of a transaction"
    with pytest.raises(InputError, match=f"{why}.* cannot be read; 'seg-perception bag recover' saves"):
        BagReader(path)
    saved = recover(path, tmp_path / "saved.mcap")
    assert saved.notes[0].startswith(why)
    count = saved.recovered["/talk"]
    assert count == {"cut": 50, "flip": 25, "head": 1, "salt": 2, "last salt": 50, "zeros": 50}[damage]
    committed = 0 if damage == "head" else 32 + 2 * frame * (count - 1)  # a message has two frames
    assert saved.lost_bytes == wal.stat().st_size - committed


def test_what_an_earlier_run_left_in_a_journal_is_no_loss(tmp_path: Path) -> None:
    live, path = sqlite_bag(tmp_path / "live.db3"), tmp_path / "a.db3"
    database = sqlite3.connect(live, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    for i in range(9):
        database.execute("INSERT INTO messages VALUES (?, 1, ?, ?)", (i + 2, i + 6, TALK))
        if i == 7:
            database.execute("PRAGMA wal_checkpoint(RESTART)")
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{live}{suffix}", f"{path}{suffix}")
    database.close()
    assert len(contents(path)) == 10
    assert recover(path, tmp_path / "saved.mcap").lost_bytes == 0


def test_a_hot_rollback_journal_is_a_loss_and_rolled_back_in_a_copy(tmp_path: Path) -> None:
    live = sqlite_bag(tmp_path / "live.db3")
    database = sqlite3.connect(live, isolation_level=None)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("PRAGMA cache_size = 1")  # pages go to the file before the commit
    database.execute("BEGIN")
    for i in range(300):
        database.execute("INSERT INTO messages VALUES (?, 1, ?, ?)", (i + 2, i + 6, TALK * 50))
    for suffix in ("", "-journal"):
        shutil.copyfile(f"{live}{suffix}", tmp_path / f"a.db3{suffix}")
    database.close()
    before = (tmp_path / "a.db3").read_bytes()
    with pytest.raises(InputError, match=r"a.db3-journal is that of a transaction that was not ended: .* recover"):
        BagReader(tmp_path / "a.db3")
    saved = recover(tmp_path / "a.db3", tmp_path / "saved.mcap")
    assert saved.recovered == {"/talk": 1}
    assert saved.lost_bytes == (tmp_path / "a.db3-journal").stat().st_size > 0
    assert (tmp_path / "a.db3").read_bytes() == before
    (tmp_path / "a.db3").write_bytes(live.read_bytes())
    (tmp_path / "a.db3-journal").write_bytes(bytes(4096))  # as PERSIST leaves one whose transaction was ended
    assert contents(tmp_path / "a.db3") == TALKED


ODD_NAMES = [
    "run #3", "50%25 done", "what?mode=rw", "a&b=c", "it's \"quoted\"", " spaces ", "Straße ü", "-dash", "日本", "a;b",
    os.fsdecode(b"not \xff utf-8"), "x" * 200,
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".mcap", ".db3", ""])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_may_hold_anything(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / name[:40] / f"{name}{suffix}"  # SQLite opens no path of more than 512 bytes
    path.parent.mkdir()
    write_bag(path, [picture(0)])
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert len(contents(path)) == 1
    assert recover(path, path.with_name(f"{name}.saved{suffix}")).recovered == {"/image": 1}


def test_topics_with_odd_definitions_are_read_and_recovered(tmp_path: Path) -> None:
    parts = [*image_parts()]
    odd = {
        "/service": ("a_msgs/srv/Add_Event", f"uint8 x\n{RULE}MSG: a_msgs/srv/Add_Request\n", "ros2msg"),
        "/include": ("a_msgs/msg/B", f'{RULE}IDL: a_msgs/msg/B\n#include "other.idl"\nmodule a', "ros2idl"),
        "/plain": ("test_msgs/BasicTypes", "bool x\n", "ros2msg"),
        "/none": ("px4_msgs/msg/VehicleStatus", "", ""),
        "/recursive": ("a_msgs/msg/R", "a_msgs/R again\n", "ros2msg"),
    }
    for number, (topic, (type_name, definition, notation)) in enumerate(odd.items(), 20):
        parts += [schema(number, type_name, definition, notation), channel(number, number, topic), message(number, 5)]
    path = mcap(tmp_path / "a.mcap", *parts)
    assert recover(path, tmp_path / "saved.mcap").recovered == {"/image": 2, **dict.fromkeys(odd, 1)}
    assert contents(tmp_path / "saved.mcap") == contents(path)
    with BagReader(path) as before, BagReader(tmp_path / "saved.mcap") as after:
        for topic, (_, definition, _) in odd.items():
            assert after.topic(topic).definition.text == before.topic(topic).definition.text == definition


@pytest.mark.parametrize("qos", ["hello", "[1, 2]", "- history: [", b"\xff\xfe", "[" * 5000, "a: &a [1]\nb: *a"])
def test_a_broken_quality_of_service_is_guessed_and_said(tmp_path: Path, qos: str | bytes) -> None:
    parts = schema(1, "std_msgs/msg/String"), channel(1, 1, "/talk", qos=qos), message(1, 5)
    path = mcap(tmp_path / "a.mcap", *parts)
    if isinstance(qos, bytes):  # then the record is no text at all
        with pytest.raises(InputError, match="has text that is not UTF-8"):
            BagReader(path)
        return
    with BagReader(path) as bag:
        assert bag.topic("/talk").qos == OfferedQos()
        assert bag.notes == ("the quality of service of /talk cannot be read; taken as reliable and volatile",)
    assert recover(path, tmp_path / "saved.mcap").notes == bag.notes


def test_a_message_of_an_unknown_record_kind_is_skipped(tmp_path: Path) -> None:
    """MCAP: operations from 0x80 on are for private use, and a later version may add some below."""
    path = mcap(tmp_path / "a.mcap", *talk_parts(), record(0x80, b"private"), record(0x42, b"later"))
    assert contents(path) == TALKED
    recovery = recover(path, tmp_path / "saved.mcap")
    assert (recovery.recovered, recovery.lost_bytes) == ({"/talk": 1}, 0)
