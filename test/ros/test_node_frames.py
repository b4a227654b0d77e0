"""Frames through the real node: accounting, headers, labels, sizes, outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from node_harness import image_message, picture, running, stamp_of, wait_until
from sensor_msgs.msg import Image

from seg_perception.engines.opening import open_engine
from seg_perception.segmenter import Segmenter

START, PERIOD = 1_700_000_000_123_456_789, 33_333_333


def as_array(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze()


def test_two_hundred_frames_are_all_accounted_for(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "qos.input.reliability": "reliable", "qos.input.depth": 200}) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        masks = run.peer.subscribe(Image, "/segmentation_node/drivable")
        images = run.peer.publisher(Image, "/image")
        sent = {}
        for index in range(200):
            stamp_ns = START + index * PERIOD
            sent[stamp_ns] = picture(index)
            images.publish(image_message(sent[stamp_ns], stamp_ns, f"frame_{index}"))
        wait_until(lambda: run.counts().received == 200, "200 frames received")
        counts = run.settled()
        assert counts.received == counts.published + counts.superseded + counts.rejected
        assert counts.unaccounted == counts.rejected == counts.failed == 0
        wait_until(lambda: len(labels) == len(masks) == counts.published, "every published frame")
        segmenter = Segmenter(open_engine(tiny_model))
        for message, mask in zip(labels, masks):
            expected = segmenter.segment(sent[stamp_of(message)]).labels
            assert np.array_equal(as_array(message), expected)
            assert mask.header == message.header
            assert message.header.frame_id == f"frame_{(stamp_of(message) - START) // PERIOD}"
            assert message.encoding == mask.encoding == "mono8"
            # road, id 0, is the only drivable class
            assert np.array_equal(as_array(mask), np.where(expected == 0, 255, 0))
        assert len({stamp_of(m) for m in labels}) == len(labels) > 0
