from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bag_helpers import START, contents, drivable_of, picture, truth_of, write_bag

from seg_perception.bags import messages
from seg_perception.bags.images import labels_of, rgb_of
from seg_perception.bags.journal import Journal
from seg_perception.bags.processing import ProcessSettings, camera_name, journal_path, segment_bag
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import OfferedQos
from seg_perception.bags.writer import BagWriter
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
