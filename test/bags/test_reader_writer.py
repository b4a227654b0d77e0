from __future__ import annotations

import os
import resource
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from bag_helpers import START, STEP, contents, noise, picture, write_bag
from mcap.reader import make_reader
from rosbags import rosbag2

from seg_perception.bags import messages
from seg_perception.bags.locating import partial_path
from seg_perception.bags.messages import labels_of, rgb_of
from seg_perception.bags.reader import BagReader
from seg_perception.bags.salvage import recover
from seg_perception.bags.types import OfferedQos, TypeDefinition
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import InputError

IMAGE_HASH = "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"
"""Of sensor_msgs/msg/Image, as ROS 2 Jazzy's own package carries it."""

NAMES = ("drive.mcap", "drive.db3", "drive")  # one file of each storage, and a bag folder


@pytest.mark.parametrize("name", NAMES)
def test_every_type_comes_back_with_its_stamps_and_pixels(tmp_path: Path, name: str) -> None:
    image, labels = picture(3), picture(3)[..., 0] // 26
    header = messages.header(START, "camera_front")
    written = {
        "/image": (messages.IMAGE, messages.image(image, header)),
        "/labels": (messages.IMAGE, messages.image(labels, header)),
        "/png": (messages.COMPRESSED_IMAGE, messages.compressed_png(image, header)),
        "/info": (messages.CAMERA_INFO, messages.camera_info(64, 48, 50.0, header)),
    }
    with BagWriter(tmp_path / name) as bag:
        for topic, (type_name, message) in written.items():
            bag.add_topic(topic, type_name)
            bag.write(topic, START + 5, message)
        assert bag.counts == {"/image": 1, "/labels": 1, "/png": 1, "/info": 1}

    with BagReader(tmp_path / name) as bag:
        assert [(t.name, t.type, t.count) for t in bag.topics] == [(n, t, 1) for n, (t, _) in written.items()]
        assert (bag.start_ns, bag.end_ns, bag.message_count) == (START + 5, START + 5, 4)
        found = {m.topic.name: bag.decode(m) for m in bag.messages()}
    assert all(messages.stamp_ns_of(m) == START and m.header.frame_id == "camera_front" for m in found.values())
    np.testing.assert_array_equal(rgb_of(found["/image"], messages.IMAGE), image)
    np.testing.assert_array_equal(labels_of(found["/labels"], messages.IMAGE), labels)
    np.testing.assert_array_equal(rgb_of(found["/png"], messages.COMPRESSED_IMAGE), image)
    # principal point: the middle of pixels 0 to 63 and 0 to 47
    assert found["/info"].k.tolist() == [50, 0, 31.5, 0, 50, 23.5, 0, 0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_messages_come_in_order_and_can_be_chosen(tmp_path: Path, name: str) -> None:
    path = write_bag(tmp_path / name, [picture(i) for i in range(5)], truths=[picture(i)[..., 0] for i in range(5)])
    with BagReader(path) as bag:
        assert [m.stamp_ns for m in bag.messages(["/image"])] == [START + i * STEP for i in range(5)]
        chosen = bag.messages(["/truth"], start_ns=START + STEP, stop_ns=START + 3 * STEP)
        assert [(m.topic.name, m.stamp_ns) for m in chosen] == [("/truth", START + STEP), ("/truth", START + 2 * STEP)]
        with pytest.raises(InputError, match=r"no topic '/camera'; it has: /image \(sensor_msgs/msg/Image\), /truth"):
            next(bag.messages(["/camera"]))


def test_foxglove_reads_our_files(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive.mcap", [picture(i) for i in range(7)])
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        found = list(reader.iter_messages())
        metadata = {m.name: m.metadata for m in reader.iter_metadata()}
    assert [m.log_time for _, _, m in found] == [START + i * STEP for i in range(7)]
    assert {(s.name, s.encoding, c.message_encoding) for s, c, _ in found} == {(messages.IMAGE, "ros2msg", "cdr")}
    assert [m.data for _, _, m in found] == [data for *_, data in contents(path)]
    # `ros2 bag info` of a single file reads this record
    assert "version: 8" in metadata["rosbag2"]["serialized_metadata"]
    assert "- drive.mcap" in metadata["rosbag2"]["serialized_metadata"]


def test_every_rosbag2_from_humble_on_can_read_what_we_write(tmp_path: Path) -> None:
    """Humble's yaml-cpp conversions take the list of profiles as text, and numbers for the policies."""
    for name in NAMES:
        with BagWriter(tmp_path / name) as bag:
            bag.add_topic("/image", messages.IMAGE, OfferedQos(reliable=False, latched=True, depth=7))
            bag.write("/image", START, messages.image(picture(0), messages.header(START, "")))
    folder = tmp_path / "drive"
    assert sorted(p.name for p in folder.iterdir()) == ["drive.mcap", "metadata.yaml"]
    inside = sqlite3.connect(tmp_path / "drive.db3")
    texts = {
        "drive": (folder / "metadata.yaml").read_text(),
        "drive.db3": inside.execute("SELECT metadata FROM metadata").fetchone()[0],
    }
    with (tmp_path / "drive.mcap").open("rb") as file:
        reader = make_reader(file)
        texts["drive.mcap"] = next(reader.iter_metadata()).metadata["serialized_metadata"]
        (channel,) = reader.get_summary().channels.values()
    for name, text in texts.items():
        found = yaml.safe_load(text)
        found = found.get("rosbag2_bagfile_information", found)
        assert (found["version"], found["message_count"], found["duration"]) == (8, 1, {"nanoseconds": 0})
        assert found["starting_time"] == {"nanoseconds_since_epoch": START}
        file_name = "drive.mcap" if name == "drive" else name
        assert found["relative_file_paths"] == [file_name]
        assert found["files"][0]["path"] == file_name
        (topic,) = found["topics_with_message_count"]
        assert topic["topic_metadata"]["type_description_hash"] == IMAGE_HASH
        offered = topic["topic_metadata"]["offered_qos_profiles"]
        assert isinstance(offered, str)
        (profile,) = yaml.safe_load(offered)
        # rmw: keep last 1, best effort 2, transient local 1, automatic 1
        policies = [profile[k] for k in ("history", "depth", "reliability", "durability", "liveliness")]
        assert policies == [1, 7, 2, 1, 1]
        assert profile["deadline"] == {"sec": 2147483647, "nsec": 4294967295}  # what Humble calls infinite
        assert channel.metadata == {"offered_qos_profiles": offered, "topic_type_hash": IMAGE_HASH}
        assert "&" not in text, "no YAML anchors"
    row = inside.execute("SELECT offered_qos_profiles, type_description_hash FROM topics").fetchone()
    assert row == (channel.metadata["offered_qos_profiles"], IMAGE_HASH)
    inside.close()


@pytest.mark.parametrize("name", NAMES)
def test_rosbags_reads_our_files(tmp_path: Path, name: str) -> None:
    """An independent reader, of both storages."""
    path = write_bag(tmp_path / name, [picture(i) for i in range(7)])
    with rosbag2.Reader(path) as bag:
        found = [(c.topic, c.msgtype, stamp, data) for c, stamp, data in bag.messages()]
        assert bag.connections[0].ext.offered_qos_profiles[0].depth == 10
    assert found == contents(path)


def test_compression_makes_labels_small(tmp_path: Path) -> None:
    sizes = []
    for compress in (True, False):
        with BagWriter(tmp_path / f"{compress}.mcap", compress=compress) as bag:
            bag.add_topic("/labels", messages.IMAGE)
            bag.write("/labels", START, messages.image(np.zeros((480, 640), np.uint8), messages.header(START, "")))
        sizes.append((tmp_path / f"{compress}.mcap").stat().st_size)
    assert sizes[0] < 20_000
    assert sizes[1] > 307_200  # 640 x 480 = 307200 equal bytes


@pytest.mark.parametrize("name", NAMES)
def test_quality_of_service_is_kept(tmp_path: Path, name: str) -> None:
    with BagWriter(tmp_path / name) as bag:
        bag.add_topic("/latched", messages.IMAGE, OfferedQos(reliable=True, latched=True, depth=1))
        bag.add_topic("/camera", messages.IMAGE, OfferedQos(reliable=False, depth=5))
        bag.write("/latched", START, messages.image(picture(0), messages.header(START, "")))
    with BagReader(tmp_path / name) as bag:
        assert bag.topic("/latched").qos == OfferedQos(reliable=True, latched=True, depth=1)
        assert bag.topic("/camera").qos == OfferedQos(reliable=False, depth=5)


def test_a_foreign_type_travels_with_its_definition(tmp_path: Path) -> None:
    definition = TypeDefinition("our_msgs/msg/Wheel", "float64 speed\nbuiltin_interfaces/Time at\n" + "=" * 80 + (
        "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
    ))  # fmt: skip
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.add_topic("/wheel", definition)
        bag.write("/wheel", START, SimpleNamespace(speed=12.5, at=SimpleNamespace(sec=3, nanosec=4)))
    with BagReader(tmp_path / "a.mcap") as bag:
        message = bag.decode(next(bag.messages()))
    assert (message.speed, message.at.sec, message.at.nanosec) == (12.5, 3, 4)
    with BagWriter(tmp_path / "b.mcap") as bag, pytest.raises(InputError, match="give its definition"):
        bag.add_topic("/wheel", "our_msgs/msg/Wheel")


def test_an_existing_bag_is_replaced_only_on_demand(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive.mcap", [picture(0)])
    with pytest.raises(FileExistsError, match=r"drive\.mcap exists already: move or remove it first"):
        BagWriter(path)
    with BagWriter(path, overwrite=True) as bag:
        bag.add_topic("/image", messages.IMAGE)
    assert contents(path) == []


@pytest.mark.parametrize("name", ["drive", "drive.mcap"])
def test_a_folder_that_is_no_bag_is_never_replaced(tmp_path: Path, name: str) -> None:
    folder = write_bag(tmp_path / "drive", [picture(0)]).rename(tmp_path / name)
    (folder / "notes.txt").write_text("of the drive")
    with pytest.raises(InputError, match=r"is not replaced: notes\.txt in it is no part of a bag"):
        BagWriter(tmp_path / name, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {"metadata.yaml", "drive.mcap", "notes.txt"}
    (folder / "notes.txt").unlink()
    with BagWriter(tmp_path / name, overwrite=True) as bag:  # now it is a bag
        bag.add_topic("/image", messages.IMAGE)
    assert contents(tmp_path / name) == []


def test_what_came_into_the_folder_while_writing_stays(tmp_path: Path) -> None:
    folder = write_bag(tmp_path / "drive", [picture(0)])
    bag = BagWriter(folder, overwrite=True)
    (folder / "notes.txt").write_text("of the drive")
    with pytest.raises(InputError, match="is not replaced"):
        bag.close()
    assert (folder / "notes.txt").exists()
    assert (tmp_path / "drive.partial" / "drive" / "drive.mcap").exists(), "what was written is kept, too"


def test_a_bag_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    with pytest.raises(ZeroDivisionError), BagWriter(path) as bag:
        bag.add_topic("/image", messages.IMAGE)
        assert not path.exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, inside", [("a.mcap", "a/a.mcap"), ("a.db3", "bag/bag.db3")])
def test_what_was_flushed_is_there_after_a_kill(tmp_path: Path, name: str, inside: str) -> None:
    if not (child := os.fork()):
        bag = BagWriter(tmp_path / name)
        bag.add_topic("/image", messages.IMAGE)
        for stamp in range(5):
            bag.write("/image", stamp, messages.image(np.zeros((4, 4, 3), np.uint8), messages.header(1, "")))
            if stamp in (1, 3):
                bag.flush()
        os._exit(0)  # as a kill: nothing is closed
    os.waitpid(child, 0)
    saved = recover(partial_path(tmp_path / name) / inside, tmp_path / "saved.mcap")
    assert saved.recovered == {"/image": 4}


def test_the_rest_of_a_killed_writer_is_not_overwritten_silently(tmp_path: Path) -> None:
    if not (child := os.fork()):
        BagWriter(tmp_path / "drive.mcap").add_topic("/image", messages.IMAGE)
        os._exit(0)  # as a kill: nothing is closed
    os.waitpid(child, 0)
    with pytest.raises(FileExistsError, match=r"partial exists already \(left by a run that did not finish\)"):
        BagWriter(tmp_path / "drive.mcap")
    with pytest.raises(FileNotFoundError, match="a recording of that name was never finished: see"):
        BagReader(tmp_path / "drive.mcap")
    with BagWriter(tmp_path / "drive.mcap", overwrite=True) as bag:
        bag.add_topic("/image", messages.IMAGE)
    assert contents(tmp_path / "drive.mcap") == []


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    with BagWriter(path) as first:
        first.add_topic("/image", messages.IMAGE)
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=rf"is being written by process {os.getpid()} \(.*wait until"):
                BagWriter(path, overwrite=overwrite)
        with pytest.raises(FileNotFoundError, match=rf"no bag at .*; process {os.getpid()} .* is still writing it"):
            BagReader(path)
        first.write("/image", START, messages.image(picture(0), messages.header(START, "")))
    assert [p.name for p in tmp_path.iterdir()] == ["drive.mcap"]
    assert len(contents(path)) == 1


def test_a_folder_without_metadata_is_read_by_its_parts(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive", [picture(0)])
    (path / "metadata.yaml").unlink()
    with BagReader(path) as bag:
        assert bag.notes == (f"{path} has no metadata.yaml (its recorder did not close the bag); read: drive.mcap",)
    assert len(contents(path)) == 1


@pytest.mark.parametrize("name", ["drive.mcap", "drive.db3"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_bag_is_a_clear_error(tmp_path: Path, name: str, share: float) -> None:
    path = write_bag(tmp_path / name, [noise(i) for i in range(40)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=rf"{name} is damaged or was cut off before it was closed"):
        contents(path)


def test_a_flipped_byte_in_a_compressed_chunk_is_found(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "drive.mcap", [noise(0)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        contents(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no bag")
    with pytest.raises(InputError, match=r"notes\.txt is not a bag: accepted are a bag folder, an \.mcap"):
        BagReader(tmp_path / "notes.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a folder, but not a bag"):
        BagReader(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="no bag at"):
        BagReader(tmp_path / "nothing.mcap")


def test_padded_rows_are_dropped() -> None:
    image = messages.image(picture(1), messages.header(START, ""))
    rows = np.full((48, 200), 99, np.uint8)  # 64 x 3 = 192 bytes of pixels, 8 of padding
    rows[:, :192] = picture(1).reshape(48, 192)
    image.step, image.data = 200, rows.reshape(-1)
    np.testing.assert_array_equal(rgb_of(image, messages.IMAGE), picture(1))

    labels = messages.image(np.arange(12, dtype=np.uint8).reshape(3, 4), messages.header(START, ""))
    labels.step, labels.data = 6, np.array([0, 1, 2, 3, 9, 9, 4, 5, 6, 7, 9, 9, 8, 9, 10, 11, 9, 9], np.uint8)
    assert labels_of(labels, messages.IMAGE).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    labels.step = 5
    with pytest.raises(InputError, match="mono8 image of 4x3 with step 5 must have 3 x 5 = 15 bytes, got 18"):
        labels_of(labels, messages.IMAGE)


def test_a_color_image_is_not_labels() -> None:
    with pytest.raises(InputError, match="encoding 'rgb8' is not a label image: mono8 with class ids is accepted"):
        labels_of(messages.image(picture(0), messages.header(START, "")), messages.IMAGE)


def test_a_stamp_must_fit_the_message() -> None:
    with pytest.raises(InputError, match="stamp -1 ns is not accepted"):
        messages.header(-1, "")


def test_a_full_disk_names_the_bag_and_what_is_kept(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "a.mcap", compress=False)
    writer.add_topic("/text", "std_msgs/msg/String")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        with pytest.raises(OSError, match="what was written before it is kept: bag recover ") as raised:
            try:
                for stamp_ns in range(30):
                    writer.write_raw("/text", stamp_ns, bytes(100_000))
            finally:  # as the recorder does
                writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.filename == str(tmp_path / "a.mcap")
    kept = Path(raised.value.strerror.rpartition("bag recover ")[2])
    assert recover(kept, tmp_path / "saved.mcap").recovered["/text"] >= 10  # a chunk of a megabyte
