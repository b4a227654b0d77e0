"""Image in, Segmentation out, around an engine whose answers can be worked out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.image_message import RawImage
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import CameraEncoding, Size
from seg_perception.engines.base import EngineInfo, check_batch
from seg_perception.engines.opening import open_engine
from seg_perception.segmenter import Segmenter

CARD = ModelCard(
    name="fake",
    version="1",
    network="none",
    label_set=load_label_set("driving"),
    input_size=Size(64, 32),
    size_multiple=16,
    precision="fp32",
    weights_sha256="0" * 64,
)


class RedEngine:
    """The label of a pixel is its red value modulo 10, the confidence its green value; it remembers its batches."""

    def __init__(self, max_batch: int | None = None, fixed_size: Size | None = None) -> None:
        self.info = EngineInfo("fake", "1", "CPU", "fp32", max_batch, fixed_size)
        self.card = CARD
        self.batches: list[tuple[int, ...]] = []

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        check_batch(images, self.card, self.info)
        self.batches.append(images.shape)
        return images[..., 0] % 10, images[..., 1].copy()

    def close(self) -> None:
        pass


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_an_image_of_the_networks_size_goes_through_untouched() -> None:
    image = picture(64, 32)
    answer = Segmenter(RedEngine()).segment(image)
    assert np.array_equal(answer.labels, image[..., 0] % 10)
    assert np.array_equal(answer.confidence, image[..., 1])


@pytest.mark.parametrize("width, height", [(64, 32), (640, 480), (31, 17), (1, 1), (1000, 20), (33, 400)])
def test_the_answer_has_the_images_size(width: int, height: int) -> None:
    if width * height == 1 and cv2.__version__ == "4.5.4":
        pytest.skip("OpenCV 4.5.4 raises for every color image of one pixel")
    engine = RedEngine()
    answer = Segmenter(engine).segment(picture(width, height))
    assert answer.labels.shape == answer.confidence.shape == (height, width)
    assert engine.batches[0][1] % 16 == engine.batches[0][2] % 16 == 0


def test_the_prepared_image_has_the_cards_pixel_count_and_the_cameras_shape() -> None:
    prepared = Segmenter(RedEngine()).prepare(picture(256, 128))
    assert Size.of(prepared.pixels) == Size(64, 32)
    assert prepared.camera_size == Size(256, 128)
    # 320x240 at 2048 pixels: scale 0.1633 -> 52.3 x 39.2 -> nearest multiples of 16: 48 x 32
    assert Size.of(Segmenter(RedEngine()).prepare(picture(320, 240)).pixels) == Size(48, 32)


def test_shrinking_averages_so_that_fine_patterns_do_not_alias() -> None:
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.all(Segmenter(RedEngine()).prepare(stripes).pixels == 100)


def test_blocks_of_pixels_come_back_where_they_were() -> None:
    image = np.zeros((64, 128, 3), np.uint8)  # twice the network's size
    image[:32, :64, 0] = 3  # the upper left quarter
    labels = Segmenter(RedEngine()).segment(image).labels
    assert np.array_equal(labels, image[..., 0])


def test_a_batch_of_mixed_sizes_equals_single_runs() -> None:
    images = [picture(64, 32, 1), picture(256, 128, 2), picture(31, 17, 3), picture(64, 32, 4), picture(48, 48, 5)]
    segmenter = Segmenter(RedEngine())
    together = [segmenter.finish(raw) for raw in segmenter.infer([segmenter.prepare(image) for image in images])]
    assert len(together) == 5
    for image, answer in zip(images, together, strict=True):
        alone = Segmenter(RedEngine()).segment(image)
        assert np.array_equal(answer.labels, alone.labels)
        assert np.array_equal(answer.confidence, alone.confidence)


def test_one_engine_call_for_each_network_size_within_the_engines_batch() -> None:
    engine = RedEngine(max_batch=2)
    segmenter = Segmenter(engine)
    images = [picture(64, 32, i) for i in range(5)] + [picture(48, 48, 9)]
    assert len(segmenter.infer([segmenter.prepare(image) for image in images])) == 6
    assert engine.batches == [(2, 32, 64, 3), (2, 32, 64, 3), (1, 32, 64, 3), (1, 48, 48, 3)]
    assert segmenter.infer([]) == []


def test_an_image_that_is_a_view_is_as_good_as_a_copy() -> None:
    image = picture(64, 32)
    mirrored = image[:, ::-1]
    answer = Segmenter(RedEngine()).segment(mirrored)
    assert np.array_equal(answer.labels, mirrored[..., 0] % 10)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_what_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"an RGB image must be uint8 \[H, W, 3\], got"):
        Segmenter(RedEngine()).segment(image)


def test_a_size_of_ones_own_is_used_for_every_camera() -> None:
    segmenter = Segmenter(RedEngine(), Size(48, 16))
    assert Size.of(segmenter.prepare(picture(640, 480)).pixels) == Size(48, 16)
    assert Size.of(segmenter.prepare(picture(20, 20)).pixels) == Size(48, 16)


def test_an_engine_of_one_size_gets_that_size_and_a_shape_that_suffers_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    segmenter = Segmenter(RedEngine(fixed_size=Size(32, 32)))
    for _ in range(2):
        assert Size.of(segmenter.prepare(picture(640, 480)).pixels) == Size(32, 32)
    assert Size.of(segmenter.prepare(picture(36, 32)).pixels) == Size(32, 32)
    (record,) = caplog.records
    assert "takes 32x32 only: images of 640x480 are narrowed by 25 % to fit" in record.getMessage()


def test_a_size_that_the_engine_does_not_take_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="network size 64x32 does not fit this engine, which was built for 32x32"):
        Segmenter(RedEngine(fixed_size=Size(32, 32)), Size(64, 32))
    with pytest.raises(InputError, match=r"network size 50x32 does not fit fake-1-fp32-00000000: .* multiples of 16"):
        Segmenter(RedEngine(), Size(50, 32))


def test_the_shipped_model_answers_mixed_sizes_as_it_answers_each_alone(driving_model: object) -> None:
    engine = open_engine(driving_model, threads=1)  # type: ignore[arg-type]
    segmenter = Segmenter(engine, Size(64, 64))
    images = [picture(64, 64, 1), picture(100, 50, 2)]
    together = [segmenter.finish(raw) for raw in segmenter.infer([segmenter.prepare(image) for image in images])]
    for image, answer in zip(images, together, strict=True):
        alone = segmenter.segment(image)
        # noise has near-ties, which a batch's other order of additions may turn
        assert np.mean(answer.labels == alone.labels) > 0.99
        assert np.abs(answer.confidence.astype(int) - alone.confidence).max() <= 2
    engine.close()


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda labels: labels.transpose(0, 2, 1).copy(), r"labels of uint8 \[1, 64, 32\]; uint8 \[1, 32, 64\] is"),
        (lambda labels: labels[:, ::2, ::2].copy(), r"labels of uint8 \[1, 16, 32\]"),
        (lambda labels: labels.astype(np.int64), r"labels of int64 \[1, 32, 64\]"),
        (lambda labels: np.full_like(labels, 10), r"class 10, but the model card has 10 classes \(0 to 9\)"),
        (lambda labels: np.full_like(labels, 255), "class 255"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_refused(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], message: str
) -> None:
    """Resizing the labels to the camera's size would hide it."""
    engine = RedEngine()
    infer = engine.infer
    monkeypatch.setattr(engine, "infer", lambda images: (answer(infer(images)[0]), infer(images)[1]))
    with pytest.raises(EngineError, match=message):
        Segmenter(engine).segment(picture(640, 320))


class BlueFirstEngine(RedEngine):
    """The same of a camera's own BGR bytes."""

    def __init__(self) -> None:
        super().__init__(fixed_size=Size(64, 32))
        self.card = dataclasses.replace(CARD, camera_encoding=CameraEncoding.BGR)
        self.seen: list[NDArray[np.uint8]] = []

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        self.seen.append(images)
        return super().infer(images[..., ::-1])


def test_a_cameras_bytes_go_to_an_engine_that_takes_them_without_a_copy() -> None:
    segmenter = Segmenter(engine := BlueFirstEngine())
    assert segmenter.takes_camera_bytes
    assert not Segmenter(RedEngine()).takes_camera_bytes
    image = picture(64, 32)
    data = np.ascontiguousarray(image[..., ::-1]).tobytes()
    (answer,) = segmenter.infer([segmenter.prepare_raw(RawImage(Size(64, 32), "bgr8", 192, False, data))])
    assert np.array_equal(segmenter.finish(answer).labels, image[..., 0] % 10)
    assert np.shares_memory(engine.seen[0], np.frombuffer(data, np.uint8))
    with pytest.raises(InputError, match="a rgb8 image of 64x32 is not accepted: this engine takes the camera's bytes"):
        segmenter.prepare_raw(RawImage(Size(64, 32), "rgb8", 192, False, data))


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (31, 17)])
def test_an_rgb_image_is_brought_to_the_camera_that_an_engine_is_for(size: tuple[int, int]) -> None:
    """So that predict, evaluate and a bag of another encoding work with such an engine, too."""
    image = picture(*size)
    answer = Segmenter(BlueFirstEngine()).segment(image)
    expected = Segmenter(RedEngine(fixed_size=Size(64, 32))).segment(image)
    assert np.array_equal(answer.labels, expected.labels)
    assert np.array_equal(answer.confidence, expected.confidence)
