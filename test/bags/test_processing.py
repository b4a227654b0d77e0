from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bag_helpers import START, STEP, contents, drivable_of, picture, truth_of, write_bag
from hand_made import IMAGE_TYPE, RULE, channel, image_data, image_parts, mcap, message, schema, sqlite_bag

from seg_perception.bags import messages
from seg_perception.bags.journal import Journal
from seg_perception.bags.messages import labels_of, rgb_of
from seg_perception.bags.processing import ProcessSettings, camera_name, journal_path, process_bag, segment_bag
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import OfferedQos
from seg_perception.bags.writer import BagWriter
from seg_perception.cli.main import main
from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import InputError
from seg_perception.core.types import Size
from seg_perception.core.visual import overlay
from seg_perception.engines.opening import open_engine
from seg_perception.segmenter import RawSegmentation, Segmenter

PREFIX = "/segmentation_node"


@pytest.fixture
def segmenter(tiny_model: Path) -> Segmenter:
    return Segmenter(open_engine(tiny_model))


def test_every_frame_gets_its_outputs_and_all_else_is_kept(tmp_path: Path, segmenter: Segmenter) -> None:
    images = [picture(i) for i in range(4)]
    source = write_bag(tmp_path / "in.mcap", images, truths=[truth_of(i) for i in images])
    report = segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(), "tiny")
    assert (report.frames, report.resumed, dict(report.rejected)) == (4, 0, {})

    before, after = contents(source), contents(tmp_path / "out.mcap")
    assert [m for m in after if not m[0].startswith(PREFIX)] == before
    with BagReader(tmp_path / "out.mcap") as bag:
        outputs = {(m.topic.name, messages.stamp_ns_of(bag.decode(m))): bag.decode(m) for m in bag.messages()}
    assert len(outputs) == 4 * 6  # image, truth and four outputs
    for i, image in enumerate(images):
        stamp = before[2 * i][2]
        said = {name: outputs[f"{PREFIX}/{name}", stamp] for name in ("labels", "confidence", "drivable", "overlay")}
        assert {m.header.frame_id for m in said.values()} == {"camera"}
        # the picture has the model's own size, so its answer is exact: red // 26, and green
        np.testing.assert_array_equal(labels_of(said["labels"], messages.IMAGE), truth_of(image))
        np.testing.assert_array_equal(labels_of(said["confidence"], messages.IMAGE), image[..., 1])
        np.testing.assert_array_equal(labels_of(said["drivable"], messages.IMAGE), drivable_of(image))
        drawn = overlay(image, truth_of(image), segmenter.card.label_set)
        np.testing.assert_array_equal(rgb_of(said["overlay"], messages.IMAGE), drawn)


def test_killed_half_way_it_resumes_to_the_same_bag(tmp_path: Path, tiny_model: Path) -> None:
    source = write_bag(tmp_path / "in.mcap", [picture(i, Size(320, 240)) for i in range(60)])
    program = [sys.executable, "-m", "seg_perception.cli.main", "bag", "process"]
    command = [*program, str(source), "--model", str(tiny_model)]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, out = tmp_path / "whole" / "out.mcap", tmp_path / "killed" / "out.mcap"
    subprocess.run([*command, str(whole)], check=True, capture_output=True, timeout=60)

    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = journal_path(out)
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert not out.exists()
    assert journal.exists()
    with journal.open("ab") as file:
        file.write(b"half a record")  # as a kill in the middle of a write leaves it

    resumed = subprocess.run([*command, str(out)], check=True, capture_output=True, text=True, timeout=60)
    assert "of them by an earlier attempt" in resumed.stdout
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in out.parent.iterdir()) == ["out.mcap"]  # journal and partial bag are gone


@pytest.mark.parametrize("prefix", ["segmentation_node", "/bad prefix", "/a//b", "/a/", "/1st", "/a-b"])
def test_a_prefix_that_makes_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(InputError, match=f"prefix '{prefix}' is not accepted: .* as in '/car/segmentation_node'"):
        ProcessSettings(prefix=prefix)
    assert ProcessSettings(prefix="").prefix == ""


def test_a_journal_of_another_job_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    source = write_bag(tmp_path / "in.mcap", [picture(0)])
    journal_path(tmp_path / "out.mcap").write_text('{"other": "job"}\n')
    with pytest.raises(InputError, match=r"out\.mcap\.journal belongs to another job.*remove it to start anew"):
        segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(), "tiny")


def test_a_journal_drops_what_was_torn_and_all_behind_it(tmp_path: Path) -> None:
    raws = [RawSegmentation(np.full((2, 3), i, np.uint8), np.full((2, 3), 9, np.uint8), Size(6, 4)) for i in range(3)]
    path = tmp_path / "journal"
    with Journal(path, "job") as journal:
        sizes = []
        for i, raw in enumerate(raws):
            journal.add(i, raw)
            sizes.append(path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[sizes[1] - 1] ^= 1  # the last byte of the second record
    path.write_bytes(content)
    with Journal(path, "job") as journal:
        assert len(journal) == 1
        found = journal.get(0)
        assert found is not None
        np.testing.assert_array_equal(found.labels, raws[0].labels)
        assert found.camera_size == Size(6, 4)
        assert journal.get(1) is None
        journal.add(1, raws[1])
    with Journal(path, "job") as journal:
        assert len(journal) == 2


def test_a_journal_knows_zeros_and_wrong_frame_numbers_for_damage(tmp_path: Path) -> None:
    """After a power cut, the end of a file can be zeros that were never written."""
    raw = RawSegmentation(np.full((2, 3), 7, np.uint8), np.full((2, 3), 9, np.uint8), Size(6, 4))
    path = tmp_path / "journal"
    with Journal(path, "job") as journal:
        journal.add(0, raw)
        one = path.stat().st_size
        journal.add(1, raw)
    content = path.read_bytes()
    path.write_bytes(content + bytes(4096))
    with Journal(path, "job") as journal:
        assert len(journal) == 2
        found = journal.get(0)
        assert found is not None
        np.testing.assert_array_equal(found.labels, raw.labels)
    assert path.read_bytes() == content

    renumbered = bytearray(content)
    renumbered[one] = 5  # the lowest byte of the second record's frame number
    path.write_bytes(renumbered)
    with Journal(path, "job") as journal:
        assert (len(journal), journal.get(1), journal.get(5)) == (1, None, None)


def test_undecodable_images_are_counted_by_reason(tmp_path: Path, segmenter: Segmenter) -> None:
    header = messages.header(START, "camera")
    odd = messages.image(picture(0), header)
    odd.encoding = "32FC1"
    with BagWriter(tmp_path / "in.mcap") as bag:
        bag.add_topic("/image", messages.IMAGE)
        bag.write("/image", START, odd)
        bag.write("/image", START + 1, messages.image(picture(1), messages.header(START + 1, "camera")))
    report = segment_bag(tmp_path / "in.mcap", tmp_path / "out.mcap", segmenter, ProcessSettings(), "tiny")
    assert report.frames == 2
    assert [(count, "32FC1" in reason) for reason, count in report.rejected.items()] == [(1, True)]
    labels = [m for m in contents(tmp_path / "out.mcap") if m[0] == f"{PREFIX}/labels"]
    assert [m[2] for m in labels] == [START + 1]


def test_several_cameras_compressed_and_padded(tmp_path: Path, segmenter: Segmenter) -> None:
    image = picture(2)
    header = messages.header(START, "left")
    rows = np.zeros((48, 256), np.uint8)
    rows[:, :192] = image.reshape(48, 192)
    padded = messages.image(image, header)
    padded.step, padded.data = 256, rows.reshape(-1)
    with BagWriter(tmp_path / "in.db3") as bag:
        bag.add_topic("/left/image", messages.IMAGE)
        bag.add_topic("/right/image/compressed", messages.COMPRESSED_IMAGE)
        bag.add_topic("/info", messages.CAMERA_INFO, OfferedQos(latched=True, depth=1))
        bag.write("/left/image", START, padded)
        bag.write("/right/image/compressed", START, messages.compressed_png(image, header))
        bag.write("/info", START, messages.camera_info(64, 48, 40.0, header))
    settings = ProcessSettings(images=("/left/image", "/right/image/compressed"), outputs=("labels",))
    segment_bag(tmp_path / "in.db3", tmp_path / "out.db3", segmenter, settings, "tiny")
    with BagReader(tmp_path / "out.db3") as bag:
        assert bag.topic("/info").qos.latched
        for camera in ("left", "right"):  # as the node names them
            message = next(bag.messages([f"{PREFIX}/{camera}/labels"]))
            np.testing.assert_array_equal(labels_of(bag.decode(message), message.topic.type), truth_of(image))


def test_cameras_are_named_as_the_node_names_them() -> None:
    assert camera_name("/front/image") == camera_name("/front/image/compressed") == "front"
    assert camera_name("/front/image_raw") == "front/image_raw"


def test_one_camera_twice_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    header = messages.header(START, "left")
    with BagWriter(tmp_path / "in.mcap") as bag:
        bag.add_topic("/left/image", messages.IMAGE)
        bag.add_topic("/left/image/compressed", messages.COMPRESSED_IMAGE)
        bag.write("/left/image", START, messages.image(picture(0), header))
        bag.write("/left/image/compressed", START, messages.compressed_png(picture(0), header))
    settings = ProcessSettings(images=("/left/image", "/left/image/compressed"))
    with pytest.raises(InputError, match="two of them are the same camera"):
        segment_bag(tmp_path / "in.mcap", tmp_path / "out.mcap", segmenter, settings, "tiny")


def test_each_camera_has_its_own_mask_settings(tmp_path: Path, segmenter: Segmenter) -> None:
    with BagWriter(tmp_path / "in.mcap") as bag:
        for name in ("/left/image", "/right/image"):
            bag.add_topic(name, messages.IMAGE)
            bag.write(name, START, messages.image(picture(0), messages.header(START, name)))
    settings = ProcessSettings(
        images=("/left/image", "/right/image"),
        outputs=("drivable",),
        camera_drivable={"right": DrivableSettings(classes=("sidewalk",))},
    )
    segment_bag(tmp_path / "in.mcap", tmp_path / "out.mcap", segmenter, settings, "tiny")
    with BagReader(tmp_path / "out.mcap") as bag:
        for camera, class_id in (("left", 0), ("right", 1)):
            message = next(bag.messages([f"{PREFIX}/{camera}/drivable"]))
            mask = labels_of(bag.decode(message), message.topic.type)
            np.testing.assert_array_equal(mask, drivable_of(picture(0), class_id))


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_overwritten(tmp_path: Path, segmenter: Segmenter, overwrite: bool) -> None:
    source = write_bag(tmp_path / "in.mcap", [picture(0)])
    folder = write_bag(tmp_path / "folder", [picture(0)])
    (tmp_path / "link.mcap").symlink_to(source)
    os.link(source, tmp_path / "twin.mcap")
    (tmp_path / "cut.mcap.partial" / "cut").mkdir(parents=True)
    write_bag(tmp_path / "cut.mcap.partial" / "cut" / "cut.mcap", [picture(0)])
    pairs = [
        (source, source),
        (source, tmp_path / "folder" / ".." / "in.mcap"),
        (source, tmp_path / "link.mcap"),
        (source, tmp_path / "twin.mcap"),
        (folder, folder),
        (folder, folder / "out.mcap"),
        (folder / "folder.mcap", folder),
        (tmp_path / "cut.mcap.partial" / "cut" / "cut.mcap", tmp_path / "cut.mcap"),
    ]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for read, written in pairs:
        with pytest.raises(InputError, match="would overwrite the bag it is made from"):
            segment_bag(read, written, segmenter, ProcessSettings(), "tiny", overwrite=overwrite)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_old_outputs_are_replaced(tmp_path: Path, segmenter: Segmenter) -> None:
    source = write_bag(tmp_path / "in.mcap", [picture(0)])
    segment_bag(source, tmp_path / "once.mcap", segmenter, ProcessSettings(images=("/image",)), "tiny")
    again = ProcessSettings(images=("/image",))
    report = segment_bag(tmp_path / "once.mcap", tmp_path / "twice.mcap", segmenter, again, "tiny")
    assert report.replaced == tuple(f"{PREFIX}/{n}" for n in ("confidence", "drivable", "labels", "overlay"))
    assert sorted(contents(tmp_path / "once.mcap")) == sorted(contents(tmp_path / "twice.mcap"))


def test_wrong_topics_and_outputs_are_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    source = write_bag(tmp_path / "in.mcap", [picture(0)])
    with pytest.raises(InputError, match="no topic '/front'"):
        segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(images=("/front",)), "tiny")
    with pytest.raises(InputError, match="outputs depth are not known; accepted: drivable, labels, "):
        ProcessSettings(outputs=("depth",))
    write_bag(tmp_path / "out.mcap", [picture(0)])
    with pytest.raises(FileExistsError, match="exists already"):
        segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(), "tiny")


def test_topics_that_are_only_copied_may_hold_anything(tmp_path: Path, segmenter: Segmenter) -> None:
    odd = (
        schema(2, "foxglove.Log", b"\x80\xff", "protobuf"), channel(2, 2, "/pb", "protobuf"), message(2, 6, b"\xff"),
        channel(3, 0, "/none", "json"), message(3, 7, b"{}"),
        schema(4, "test_msgs/BasicTypes", "bool x\n"), channel(4, 4, "/plain"), message(4, 8),
        schema(5, "a_msgs/msg/B", f'{RULE}IDL: a_msgs/msg/B\n#include "c.idl"', "ros2idl"), channel(5, 5, "/idl"),
        message(5, 9),
        schema(6, "a_msgs/srv/A_Event", f"uint8 x\n{RULE}MSG: a_msgs/srv/A_Request\n"),
        channel(6, 6, "/a/_service_event"), message(6, 10),
    )  # fmt: skip
    source = mcap(tmp_path / "in.mcap", *image_parts(), *odd)
    report = segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(outputs=("labels",)), "tiny")
    assert (report.segmented, report.notes) == (2, ())
    before, after = contents(source), contents(tmp_path / "out.mcap")
    assert [m for m in after if not m[0].startswith(PREFIX)] == before
    assert len(after) == len(before) + 2
    with pytest.raises(InputError, match=r"topic /pb \(foxglove\.Log, protobuf\) has no place in a SQLite bag"):
        segment_bag(source, tmp_path / "out.db3", segmenter, ProcessSettings(), "tiny")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mcap", "out.mcap"]


def test_a_definition_is_only_added_where_it_fits(tmp_path: Path, segmenter: Segmenter) -> None:
    """Humble's SQLite has no definitions. A Log of Foxy has a builtin_interfaces/Time where today's has it, too, but
    px4's messages are nobody's standard, and the last Bool here has eight bytes, where 120 are sound."""

    def edit(database: sqlite3.Connection) -> None:
        rows = (
            (2, "/image", messages.IMAGE),
            (3, "/status", "px4_msgs/msg/VehicleStatus"),
            (4, "/bool", "std_msgs/msg/Bool"),
        )
        database.executemany("INSERT INTO topics VALUES (?, ?, ?, 'cdr', '')", rows)
        sound = [(5 + i, 4, START + i, b"\0\1\0\0\1") for i in range(120)]
        odd = (4, 4, START + 120, b"\0\1\0\0" + bytes(8))
        datas = [(2, 2, START, image_data(0)), (3, 3, START, b"\0\1\0\0?"), *sound, odd]
        database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", datas)

    source = sqlite_bag(tmp_path / "in.db3", edit)
    report = segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(outputs=("labels",)), "tiny")
    assert report.segmented == 1
    assert [note.split(" (")[0].split(":")[0] for note in report.notes] == [
        "the input has no definition of px4_msgs/msg/VehicleStatus",
        "the input has no definition of std_msgs/msg/Bool, and today's does not fit",
    ]
    with BagReader(tmp_path / "out.mcap") as bag:
        texts = {topic.name: bool(topic.definition.text) for topic in bag.topics}
    assert texts == {"/talk": True, "/image": True, "/status": False, "/bool": False, f"{PREFIX}/labels": True}


def test_a_negative_stamp_is_kept_and_the_rest_goes_on(tmp_path: Path, segmenter: Segmenter) -> None:
    data = bytearray(image_data(0))
    data[4:8] = (-5).to_bytes(4, "little", signed=True)  # the header's seconds
    parts = schema(1, messages.IMAGE, IMAGE_TYPE.text), channel(1, 1, "/image")
    source = mcap(tmp_path / "in.mcap", *parts, message(1, 5, bytes(data)), message(1, 6, image_data(1)))
    report = segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(), "tiny")
    assert (report.segmented, report.frames) == (2, 2)
    with BagReader(tmp_path / "out.mcap") as bag:
        stamps = [bag.decode(m).header.stamp.sec for m in bag.messages([f"{PREFIX}/drivable"])]
    assert stamps == [-5, (START + STEP) // 10**9]


def test_what_was_recorded_before_1970_goes_to_sqlite_only(tmp_path: Path, segmenter: Segmenter) -> None:
    def edit(database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO topics VALUES (2, '/image', ?, 'cdr', '')", (messages.IMAGE,))
        database.execute("INSERT INTO messages VALUES (2, 2, -7, ?)", (image_data(0),))

    source = sqlite_bag(tmp_path / "in.db3", edit)
    with pytest.raises(InputError, match=r"recorded before 1970, which MCAP cannot hold: name the output x\.db3"):
        segment_bag(source, tmp_path / "out.mcap", segmenter, ProcessSettings(), "tiny")
    segment_bag(source, tmp_path / "out.db3", segmenter, ProcessSettings(outputs=("labels",)), "tiny")
    assert [m[2] for m in contents(tmp_path / "out.db3")] == [-7, -7, 5]


def test_a_second_process_with_one_output_is_refused_and_harms_nothing(tmp_path: Path, tiny_model: Path) -> None:
    source = write_bag(tmp_path / "in.mcap", [picture(i, Size(320, 240)) for i in range(120)])
    out = tmp_path / "out.mcap"
    command = [
        sys.executable,
        "-m",
        "seg_perception.cli.main",
        "bag",
        "process",
        str(source),
        str(out),
        "--model",
        str(tiny_model),
    ]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not journal_path(out).exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(first.pid, signal.SIGSTOP)  # so that it is there, however fast it is
        said = rf"out\.mcap is being written by process {first.pid} \(.*bag process .*\): wait until it is done"
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=said):
                process_bag(source, out, model=tiny_model, overwrite=overwrite)
        os.kill(first.pid, signal.SIGCONT)
        stdout, stderr = first.communicate(timeout=60)
    finally:
        if first.poll() is None:
            first.kill()
    assert "120 of 120 frames segmented" in stdout, stderr
    assert len(contents(out)) == 120 * 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mcap", "out.mcap"]


def test_one_call_does_what_the_command_does(tmp_path: Path, tiny_model: Path) -> None:
    source = write_bag(tmp_path / "in.mcap", [picture(i) for i in range(3)])
    said: list[tuple[str, int]] = []
    settings = ProcessSettings(outputs=("labels",))
    out = tmp_path / "out.mcap"
    report = process_bag(str(source), str(out), settings, model=str(tiny_model), on_open=lambda *a: said.append(a))
    assert (report.segmented, len(contents(out))) == (3, 6)
    assert said[0][1] == 3
    assert said[0][0].startswith("tiny-1-fp32")
    command = [
        "bag",
        "process",
        str(source),
        str(tmp_path / "same.mcap"),
        "--model",
        str(tiny_model),
        "--outputs",
        "labels",
    ]
    assert main(command) == 0
    assert contents(tmp_path / "same.mcap") == contents(out)
    # what cannot work is known before a model is opened
    for name, match in (("nothing.mcap", "no bag at"), ("in.mcap", "has no topic '/rear'")):
        with pytest.raises((FileNotFoundError, InputError), match=match):
            process_bag(tmp_path / name, tmp_path / "x.mcap", ProcessSettings(images=("/rear",)), model="no such model")
