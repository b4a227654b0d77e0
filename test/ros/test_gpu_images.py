"""Images that arrive as CUDA rosidl::Buffers (ROS 2 Lyrical), on a named stand-in of their published Python API.

Modeled on `rosidl_buffer.Buffer` (ros2/rosidl, rosidl_buffer_py 5.2) and `cuda_buffer.CudaBuffer` (ros2/rosidl_buffer_
backends, pull request 6, not merged in November 2026). What it cannot show: that the real ones behave so, and that
rclpy delivers such messages. docs/adr/0019-camera-bytes.md has the commits that were read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from seg_perception.core.errors import InputError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import CameraEncoding, Size
from seg_perception.engines.base import EngineInfo, ImageBatch
from seg_perception.ros import compat
from seg_perception.ros.node.accounting import FrameAccount
from seg_perception.ros.node.camera import CameraFrame
from seg_perception.segmenter import Segmenter

CAMERA = Size(8, 4)


class FakeBuffer:
    """`rosidl_buffer.Buffer`: knows its backend and length; whoever reads it on the host copies it there."""

    def __init__(self, data: bytes, backend_type: str = "cuda") -> None:
        self.data, self.backend_type, self.copies_to_the_host = data, backend_type, 0

    def __len__(self) -> int:
        return len(self.data)

    def __buffer__(self, flags: int) -> memoryview:
        self.copies_to_the_host += 1
        return memoryview(self.data)


class FakeCudaBuffer:
    """`cuda_buffer.CudaBuffer`."""

    reads: ClassVar[list[tuple[FakeBuffer, int]]] = []

    @classmethod
    @contextmanager
    def from_input_buffer(cls, buffer: FakeBuffer, stream: int) -> Iterator[Any]:
        cls.reads.append((buffer, stream))
        yield SimpleNamespace(device_ptr=4096, device_id=0)


class GpuEngine:
    """Remembers what it is given."""

    gathers = True

    def __init__(self, fixed: Size | None = CAMERA, encoding: CameraEncoding = CameraEncoding.NV12) -> None:
        self.info = EngineInfo("fake", "1", "GPU", "fp16", 2, fixed)
        self.card = ModelCard(
            "fake", "1", "none", load_label_set(), CAMERA, 1, "fp32", "0" * 64, camera_encoding=encoding
        )  # type: ignore[arg-type]
        self.batches: list[ImageBatch] = []

    def infer(self, images: ImageBatch) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(images)
        answer = np.zeros((images.shape[0], CAMERA.height, CAMERA.width), np.uint8)
        return answer, answer

    def close(self) -> None:
        pass


def message(buffer: Any, encoding: str = "nv12", step: int = 8, size: Size = CAMERA) -> Any:
    return SimpleNamespace(
        width=size.width, height=size.height, encoding=encoding, step=step, is_bigendian=0, data=buffer
    )


def prepared(segmenter: Segmenter, sent: Any) -> Any:
    """As a camera's thread does it."""
    frame = CameraFrame(FrameAccount().receive(), sent, 0, 0.0, None)
    return frame.prepared(segmenter, lambda: np.zeros((4, 8, 3), np.uint8))


def test_an_image_in_gpu_memory_goes_to_the_engine_without_touching_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda_buffer", SimpleNamespace(CudaBuffer=FakeCudaBuffer))  # type: ignore[arg-type]
    FakeCudaBuffer.reads.clear()
    segmenter = Segmenter(engine := GpuEngine())  # type: ignore[arg-type]
    buffer, padded = FakeBuffer(bytes(6 * 8)), FakeBuffer(bytes(6 * 10))
    answers = segmenter.infer([prepared(segmenter, message(buffer)), prepared(segmenter, message(padded, step=10))])
    assert [answer.camera_size for answer in answers] == [CAMERA, CAMERA]
    (batch,) = engine.batches
    assert batch.shape == (2, 6, 8, 1)
    first, second = batch.images
    assert (first.step, second.step) == (8, 10)  # type: ignore[union-attr]
    with first.reading(7) as address:  # type: ignore[union-attr]
        assert address == 4096
    assert FakeCudaBuffer.reads == [(buffer, 7)]
    assert buffer.copies_to_the_host == padded.copies_to_the_host == 0


@pytest.mark.parametrize(
    "sent, reason",
    [
        (message(FakeBuffer(bytes(96)), "rgb8", 24), "a rgb8 image of 8x4 is not accepted: this engine takes .* nv12"),
        (message(FakeBuffer(bytes(47))), r"with step 8 must have 6 x 8 = 48 bytes, got 47"),
        (message(FakeBuffer(bytes(48)), step=4), "one row needs at least 8 bytes"),
        (CompressedImage(), "a compressed image is not accepted"),
    ],
)
def test_what_the_engine_does_not_take_is_refused_there_too(sent: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        prepared(Segmenter(GpuEngine()), sent)  # type: ignore[arg-type]


def test_an_image_on_the_host_stays_there() -> None:
    """The middleware falls back to the host where a publisher's memory cannot be shared."""
    segmenter = Segmenter(GpuEngine())  # type: ignore[arg-type]
    assert isinstance(prepared(segmenter, message(bytes(48))).pixels, np.ndarray)
    assert compat.gpu_reading(FakeBuffer(b"", "cpu")) is None
    rgb = Segmenter(GpuEngine(encoding=CameraEncoding.RGB))  # decodes and resizes on the host what it must
    for sent in (message(FakeBuffer(bytes(96)), "bgr8", 24), message(FakeBuffer(bytes(384)), "rgb8", 48, Size(16, 8))):
        assert isinstance(prepared(rgb, sent).pixels, np.ndarray)
    assert not isinstance(prepared(rgb, message(FakeBuffer(bytes(96)), "rgb8", 24)).pixels, np.ndarray)
    open_size = Segmenter(GpuEngine(None, CameraEncoding.RGB))  # type: ignore[arg-type]
    assert not open_size.takes_gpu_images


def test_only_a_ros_that_can_is_asked_for_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "HAS_CUDA_BUFFERS", False)
    assert compat.buffer_backends(True) == {}
    monkeypatch.setattr(compat, "HAS_CUDA_BUFFERS", True)
    assert compat.buffer_backends(True) == {"acceptable_buffer_backends": "cuda"}
    assert compat.buffer_backends(False) == {}
