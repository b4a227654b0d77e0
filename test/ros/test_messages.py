"""Messages in and out: real message types, real serialization, cv_bridge as the second opinion."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sensor_msgs.msg", reason="ROS message packages are not installed")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from seg_perception.core.errors import InputError
from seg_perception.core.image_file import decode_labels
from seg_perception.core.types import RgbImage
from seg_perception.ros.messages import (
    build_message,
    decode_compressed,
    decode_image,
    encode_image,
    encode_png,
    serialize_image,
)

HEADER = Header(stamp=Time(sec=1_700_000_000, nanosec=999_999_999), frame_id="front_camera_optical")


def picture(width: int = 40, height: int = 30) -> RgbImage:
    """Noise: every channel of every pixel differs from its neighbors."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def message(encoding: str, rows: NDArray[np.uint8], width: int, height: int) -> Image:
    """An Image with the given rows [rows, step]."""
    data = array("B", rows.tobytes())
    return Image(header=HEADER, width=width, height=height, encoding=encoding, step=rows.shape[1], data=data)


def over_the_wire(msg: Image | CompressedImage) -> Image | CompressedImage:
    return deserialize_message(serialize_message(msg), type(msg))


@pytest.mark.parametrize(
    "encoding, channels",
    [("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("bgra8", 4), ("mono8", 1)],
)
def test_decoding_agrees_with_cv_bridge_exactly(encoding: str, channels: int) -> None:
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    rows = np.random.default_rng(1).integers(0, 256, (30, 40 * channels), np.uint8)
    msg = message(encoding, rows, 40, 30)
    np.testing.assert_array_equal(decode_image(msg), cv_bridge.CvBridge().imgmsg_to_cv2(msg, "rgb8"))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg"])
def test_bayer_agrees_with_cv_bridge_exactly(pattern: str) -> None:
    """Of the PyPI port; it misspells the fourth pattern."""
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    msg = message(f"bayer_{pattern}8", np.random.default_rng(1).integers(0, 256, (30, 40), np.uint8), 40, 30)
    np.testing.assert_array_equal(decode_image(msg), cv_bridge.CvBridge().imgmsg_to_cv2(msg, "rgb8"))


def test_what_is_encoded_decodes_to_the_same_after_the_wire() -> None:
    image = picture()
    received = over_the_wire(encode_image(image, HEADER))
    np.testing.assert_array_equal(decode_image(received), image)
    assert received.header == HEADER
    assert (received.encoding, received.width, received.height, received.step) == ("rgb8", 40, 30, 120)
    assert received.is_bigendian == 0


def test_labels_are_published_as_mono8() -> None:
    labels = picture()[:, :, 0]  # a strided view: one channel of an image
    msg = encode_image(labels, HEADER)
    assert (msg.encoding, msg.width, msg.height, msg.step) == ("mono8", 40, 30, 40)
    assert isinstance(msg.data, array)
    assert msg.data.typecode == "B"
    assert bytes(msg.data) == labels.tobytes()
    np.testing.assert_array_equal(decode_image(over_the_wire(msg))[:, :, 2], labels)


@pytest.mark.parametrize("frame_id", ["", "camera", "ä/b"])
@pytest.mark.parametrize("size", [(30, 40), (1, 1), (3, 7)])
def test_serialized_images_are_the_messages(frame_id: str, size: tuple[int, int]) -> None:
    header = Header(stamp=Time(sec=-1, nanosec=999_999_999), frame_id=frame_id)
    for pixels in (picture()[: size[0], : size[1]], picture()[: size[0], : size[1], 1]):
        assert deserialize_message(serialize_image(pixels, header), Image) == encode_image(pixels, header)
    with pytest.raises(InputError, match="must be uint8"):
        serialize_image(np.zeros((2, 2), np.float32), header)  # type: ignore[arg-type]


def test_the_header_is_a_copy() -> None:
    header = Header(stamp=Time(sec=1, nanosec=2), frame_id="a")
    for msg in (encode_image(picture(), header), encode_png(picture()[:, :, 0], header)):
        assert msg.header == header
        assert msg.header is not header
        assert msg.header.stamp is not header.stamp


def test_a_header_of_another_library_will_do() -> None:
    @dataclass
    class Stamp:
        sec: int
        nanosec: int

    @dataclass
    class OtherHeader:
        stamp: Stamp
        frame_id: str

    msg = encode_image(picture(), OtherHeader(Stamp(5, 6), "b"))
    assert msg.header == Header(stamp=Time(sec=5, nanosec=6), frame_id="b")


def test_padded_rows_are_not_sheared() -> None:
    """The case that the PyPI port of cv_bridge gets silently wrong."""
    image = picture()
    rows = np.pad(image[:, :, ::-1].reshape(30, 120), ((0, 0), (0, 8)), constant_values=0xEE)
    np.testing.assert_array_equal(decode_image(over_the_wire(message("bgr8", rows, 40, 30))), image)
    rows = np.pad(image.reshape(30, 120), ((0, 0), (0, 8)), constant_values=0xEE)
    np.testing.assert_array_equal(decode_image(over_the_wire(message("rgb8", rows, 40, 30))), image)


def test_big_endian_mono16_messages() -> None:
    values = np.array([[0x1234, 0xFF00]], ">u2")
    msg = message("mono16", values.view(np.uint8), 2, 1)
    msg.is_bigendian = 1
    assert decode_image(over_the_wire(msg)).tolist() == [[[0x12] * 3, [0xFF] * 3]]
    msg.is_bigendian = 0
    assert decode_image(over_the_wire(msg)).tolist() == [[[0x34] * 3, [0x00] * 3]]


def test_any_object_with_the_fields_is_an_image() -> None:
    @dataclass
    class Other:
        height: int
        width: int
        encoding: str
        is_bigendian: int
        step: int
        data: NDArray[np.uint8]

    image = picture()
    np.testing.assert_array_equal(decode_image(Other(30, 40, "rgb8", 0, 120, image.reshape(-1))), image)


def test_the_decoded_view_keeps_the_message_alive() -> None:
    image = picture()
    decoded = decode_image(encode_image(image, HEADER))  # the message itself is gone now
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"encoding": "32FC1"}, "image encoding '32FC1' is not accepted; accepted: rgb8, "),
        ({"encoding": ""}, "image encoding '' is not accepted"),
        ({"width": 0}, "image size 0x30 is not accepted"),
        ({"height": 0}, "image size 40x0 is not accepted"),
        ({"step": 119}, "a rgb8 image of 40x30 with step 119 .*at least 120 bytes"),
        ({"step": 0}, "a rgb8 image of 40x30 with step 0 .*at least 120 bytes"),
        ({"height": 31}, r"must have 31 x 120 = 3720 bytes, got 3600"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "more than 67108864 pixels"),
    ],
)
def test_messages_that_do_not_add_up(change: dict[str, object], words: str) -> None:
    msg = encode_image(picture(), HEADER)
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(InputError, match=words):
        decode_image(msg)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2), np.uint16), np.zeros((0, 3), np.uint8), np.zeros(3, np.uint8)],
)
def test_what_cannot_be_published(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"must be uint8 \[H, W\] \(mono8\) or \[H, W, 3\] \(rgb8\), got"):
        encode_image(pixels, HEADER)


def compressed(data: bytes, text: str) -> CompressedImage:
    return CompressedImage(header=HEADER, format=text, data=array("B", data))


def smooth() -> RgbImage:
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


def coded(extension: str, image: RgbImage) -> bytes:
    data: bytes = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    return data


@pytest.mark.parametrize(
    "text",
    ["jpeg", "jpg", "JPEG", "", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", "bgr8;jpeg compressed "],
)
def test_jpeg_messages_come_out_in_rgb(text: str) -> None:
    answer = decode_compressed(over_the_wire(compressed(coded(".jpg", smooth()), text)))
    assert np.abs(answer.astype(int) - smooth()).mean() < 2


@pytest.mark.parametrize("text", ["png", "rgb8; png compressed bgr8", "bgra8; png compressed bgr8"])
def test_png_messages_come_out_exactly(text: str) -> None:
    image = picture()
    np.testing.assert_array_equal(decode_compressed(over_the_wire(compressed(coded(".png", image), text))), image)


def test_channels_that_were_compressed_in_rgb_order_are_turned_back() -> None:
    """Image_transport's rule: after "compressed rgb8" the encoder, which expects BGR, was given RGB."""
    image = picture()
    swapped = coded(".png", np.ascontiguousarray(image[:, :, ::-1]))
    for source in ("rgb8", "bgr8"):
        answer = decode_compressed(compressed(swapped, f"{source}; png compressed rgb8"))
        np.testing.assert_array_equal(answer, image)
        assert answer.flags.c_contiguous


@pytest.mark.parametrize("text", ["16UC1; compressedDepth png", "tiff", "rgb8; tiff compressed ", "h264", "theora"])
def test_other_formats_are_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=f"compressed image format '{text}' is not accepted; accepted: jpeg and png"):
        decode_compressed(compressed(coded(".png", picture()), text))


def test_no_pixel_of_the_last_message_in_a_truncated_one() -> None:
    magenta = np.full((240, 320, 3), (255, 0, 255), np.uint8)
    next_frame = coded(".jpg", np.dstack([np.random.default_rng(2).integers(0, 256, (240, 320), np.uint8)] * 3))
    decode_compressed(compressed(coded(".jpg", magenta), "jpeg"))
    with pytest.raises(InputError, match=r"format 'jpeg': the JPEG ends early, after \d+ bytes; .*truncated"):
        decode_compressed(compressed(next_frame[: len(next_frame) // 2], "jpeg"))


def test_labels_as_png_for_image_transport() -> None:
    """What image_transport's compressed subscriber does with the message: format up to ';', then imdecode unchanged."""
    labels = np.random.default_rng(3).integers(0, 10, (30, 40), np.uint8)
    msg = over_the_wire(encode_png(labels, HEADER))
    assert msg.header == HEADER
    assert msg.format.partition(";")[0] == "mono8"
    assert "png" in msg.format
    unchanged = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert unchanged is not None
    assert unchanged.shape == labels.shape  # one channel: ids, not colors
    np.testing.assert_array_equal(unchanged, labels)
    np.testing.assert_array_equal(decode_labels(msg.data, "test"), labels)
    np.testing.assert_array_equal(decode_compressed(msg)[:, :, 1], labels)


def test_labels_as_png_for_cv_bridge() -> None:
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    labels = np.random.default_rng(3).integers(0, 10, (30, 40), np.uint8)
    msg = encode_png(labels, HEADER)
    np.testing.assert_array_equal(cv_bridge.CvBridge().compressed_imgmsg_to_cv2(msg), labels)


def test_any_message_is_built_from_what_it_says() -> None:
    content = {
        "info": {"resolution": 0.5, "width": 3, "origin": {"position": {"x": 1.5}}},
        "data": np.array([0, 100, -1], np.int16),
    }
    grid = over_the_wire(build_message("nav_msgs/msg/OccupancyGrid", content, HEADER))
    assert grid.header == HEADER
    assert (grid.info.resolution, grid.info.width, grid.info.origin.position.x) == (0.5, 3, 1.5)
    assert list(grid.data) == [0, 100, -1]
    status = {"level": b"\x01", "values": [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]}
    array = over_the_wire(build_message("diagnostic_msgs/msg/DiagnosticArray", {"status": [status]}))
    assert [(v.key, v.value) for v in array.status[0].values] == [("a", "1"), ("b", "2")]
    assert array.status[0].level == b"\x01"
    info = over_the_wire(build_message("sensor_msgs/msg/CameraInfo", {"k": np.arange(9.0), "d": [0.5, 0.25]}, HEADER))
    assert list(info.k) == list(range(9))
    assert list(info.d) == [0.5, 0.25]
    assert over_the_wire(build_message("std_msgs/msg/Float64", 0.25, HEADER)).data == 0.25
    with pytest.raises(AttributeError, match="depth"):
        build_message("std_msgs/msg/Float64", {"depth": 1.0})
