"""Image messages: every encoding against an independent conversion, compressed ones as cameras write them, refusals."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from handmade import encoded, tiff_of
from numpy.typing import NDArray
from reference_conversions import REFERENCES, SIZE, Bytes, channels, noise

from seg_perception.core.codecs import say_once
from seg_perception.core.errors import InputError
from seg_perception.core.image_message import (
    ENCODINGS,
    RawImage,
    camera_bytes,
    decode_compressed,
    decode_mono8,
    decode_raw,
    to_camera_bytes,
)
from seg_perception.core.types import MAX_PIXELS, CameraEncoding, RgbImage, Size


def raw(encoding: str, rows: Bytes, size: Size = SIZE, is_bigendian: bool = False) -> RawImage:
    return RawImage(size, encoding, rows.shape[1], is_bigendian, array("B", rows.tobytes()))


def padded(encoding: str, rows: Bytes, padding: int) -> RawImage:
    """The same pixels with `padding` bytes of 0xA5 after each row of the first plane."""
    if encoding == "nv24":  # a chroma row is twice as long as a luma row, and so is its padding
        luma, chroma = rows[:22], rows[22:].reshape(22, 68)
        planes = [np.pad(luma, ((0, 0), (0, padding)), constant_values=0xA5)]
        planes.append(np.pad(chroma, ((0, 0), (0, 2 * padding)), constant_values=0xA5))
        data = b"".join(plane.tobytes() for plane in planes)
    else:
        data = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5).tobytes()
    return RawImage(SIZE, encoding, rows.shape[1] + padding, False, data)


def test_every_encoding_against_an_independent_conversion(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(REFERENCES) == set(ENCODINGS)
    lines = [f"{'encoding':<14}{'max error':>10}{'mean error':>12}"]
    worst: dict[str, int] = {}
    for encoding, (reference, _) in REFERENCES.items():
        rows = noise(encoding)
        error = np.abs(decode_raw(raw(encoding, rows)).astype(np.int16) - reference(rows))
        worst[encoding] = int(error.max())
        lines.append(f"{encoding:<14}{error.max():>10}{error.mean():>12.4f}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert len(worst) == 25
    assert {name: value for name, value in worst.items() if value > REFERENCES[name][1]} == {}


@pytest.mark.parametrize("padding", [1, 6, 30])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_padding_after_rows_changes_nothing(encoding: str, padding: int) -> None:
    rows = noise(encoding)
    if encoding.endswith("16") and padding % 2:
        padding += 1
    answer = decode_raw(padded(encoding, rows, padding))
    np.testing.assert_array_equal(answer, decode_raw(raw(encoding, rows)))
    assert answer.flags.c_contiguous
    assert answer.dtype == np.uint8


def test_mono16_takes_the_high_byte_in_either_byte_order() -> None:
    # 0x00FF = 255 -> 0, 0x0100 = 256 -> 1, 0x8000 = 32768 -> 128, 0xFFFF = 65535 -> 255
    values = [0x00FF, 0x0100, 0x8000, 0xFFFF]
    expected = [0, 1, 128, 255]
    for is_bigendian, order in ((False, "<u2"), (True, ">u2")):
        rows = np.array([values], order).view(np.uint8)
        answer = decode_raw(raw("mono16", rows, Size(4, 1), is_bigendian))
        assert answer.tolist() == [[[value] * 3 for value in expected]]


def test_twelve_bits_that_nobody_shifted_up_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A 12-bit sensor's numbers in the lower bits of mono16: 0 to 4095 of 65535 is nearly black."""
    say_once.cache_clear()
    low = np.full((2, 2), 4095, "<u2").view(np.uint8)
    shifted = np.full((2, 2), 4095 << 4, "<u2").view(np.uint8)
    dark = np.zeros((2, 4), np.uint8)
    for rows in (shifted, dark):  # the full range, and a covered lens: nothing to say
        decode_raw(raw("mono16", rows, Size(2, 2)))
    assert not caplog.records
    for _ in range(3):
        assert decode_raw(raw("mono16", low, Size(2, 2)))[0, 0].tolist() == [15, 15, 15]  # 4095 // 256
    (record,) = caplog.records
    assert "a mono16 image are all below 16384 of 65535" in record.message
    assert "shift them up" in record.message


def test_byte_order_means_nothing_to_8_bit_pixels() -> None:
    rows = noise("bgr8")
    np.testing.assert_array_equal(
        decode_raw(raw("bgr8", rows, is_bigendian=True)), decode_raw(raw("bgr8", rows, is_bigendian=False))
    )


def test_yuv_by_hand() -> None:
    # white: luma 235 = full, no chroma; black: luma 16; red: Y = 16 + 219 * 0.299 = 81.5, U = 128 - 224 * 0.1687
    # = 90.2, V = 128 + 224 * 0.5 = 240
    white, black, red = (235, 128, 128), (16, 128, 128), (81, 90, 240)
    for yuv, rgb in ((white, (255, 255, 255)), (black, (0, 0, 0)), (red, (254, 0, 0))):
        y, u, v = yuv
        for encoding, data in (
            ("uyvy", [[u, y, v, y]]),
            ("yuyv", [[y, u, y, v]]),
            ("nv12", [[y, y], [y, y], [u, v]]),
            ("nv21", [[y, y], [y, y], [v, u]]),
            ("nv24", [[y, y], [u, v], [u, v]]),
        ):
            height = 2 if encoding in {"nv12", "nv21"} else 1
            answer = decode_raw(raw(encoding, np.array(data, np.uint8), Size(2, height)))
            assert np.abs(answer.astype(int) - rgb).max() <= 1, (encoding, yuv, answer.tolist())


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_by_their_meaning(pattern: str) -> None:
    # a scene of one color, R 200, G 100, B 50: the sensor sees at each site the channel of its filter
    color = {"r": 200, "g": 100, "b": 50}
    tile = np.array([color[c] for c in pattern], np.uint8).reshape(2, 2)
    answer = decode_raw(raw(f"bayer_{pattern}8", np.tile(tile, (4, 5)), Size(10, 8)))
    assert (answer == [200, 100, 50]).all()


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_keeps_what_the_sensor_measured(pattern: str) -> None:
    rows = noise(f"bayer_{pattern}8")
    answer = decode_raw(raw(f"bayer_{pattern}8", rows))
    for site, color in enumerate(pattern):
        dy, dx = divmod(site, 2)
        own_channel = answer[:, :, "rgb".index(color)]
        inner = (slice(2 + dy, -2, 2), slice(2 + dx, -2, 2))
        np.testing.assert_array_equal(own_channel[inner], rows[inner])


def test_packed_rgb_is_a_read_only_view() -> None:
    image = raw("rgb8", noise("rgb8"))
    answer = decode_raw(image)
    assert np.shares_memory(answer, np.frombuffer(image.data, np.uint8))
    with pytest.raises(ValueError, match=r"read-only"):
        answer[0, 0, 0] = 1


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"rgb8"}))
def test_no_other_answer_aliases_the_message(encoding: str) -> None:
    image = raw(encoding, noise(encoding))
    answer = decode_raw(image)
    assert not np.shares_memory(answer, np.frombuffer(image.data, np.uint8))
    assert answer.flags.writeable


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda b: array("B", b), lambda b: np.frombuffer(b, "u1")]
)
def test_any_buffer_is_data(kind: Callable[[bytes], object]) -> None:
    rows = noise("bgr8")
    image = replace(raw("bgr8", rows), data=kind(rows.tobytes()))
    np.testing.assert_array_equal(decode_raw(image), channels(3, (2, 1, 0))(rows))


ANY_SIZE = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2, "nv24": 1}  # -> bytes a luma pixel
ANY_SIZE |= {"rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8}


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - set(ANY_SIZE)))
def test_smallest_images(encoding: str) -> None:
    """The smallest accepted size decodes; one pixel less is refused."""
    if encoding.startswith("bayer"):
        row = 6 if encoding.endswith("16") else 3
        assert decode_raw(raw(encoding, np.full((3, row), 9, np.uint8), Size(3, 3))).tolist() == [[[9] * 3] * 3] * 3
        with pytest.raises(InputError, match=r"at least 3x3"):
            decode_raw(raw(encoding, np.zeros((2, row), np.uint8), Size(3, 2)))
    else:
        planar = encoding in {"nv12", "nv21"}
        rows = np.full((3, 2), 128, np.uint8) if planar else np.full((2, 4), 128, np.uint8)
        assert decode_raw(raw(encoding, rows, Size(2, 2))).shape == (2, 2, 3)
        with pytest.raises(InputError, match=r"of 3x2 is not accepted.*must be even"):
            decode_raw(raw(encoding, np.zeros((3, 6), np.uint8), Size(3, 2)))


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_an_odd_height_has_no_quarter_chroma(encoding: str) -> None:
    with pytest.raises(InputError, match=r"of 4x3 is not accepted.*width and height must be even"):
        decode_raw(raw(encoding, np.zeros((4, 4), np.uint8), Size(4, 3)))


@pytest.mark.parametrize("encoding", sorted(ANY_SIZE))
def test_one_pixel_and_odd_sizes(encoding: str) -> None:
    pixel = ANY_SIZE[encoding]
    rows = 3 if encoding == "nv24" else 1
    if cv2.__version__ != "4.5.4":  # Ubuntu 22.04's: OpenCV raises for every color image of one pixel
        assert decode_raw(raw(encoding, np.full((rows, pixel), 128, np.uint8), Size(1, 1))).shape == (1, 1, 3)
    answer = decode_raw(raw(encoding, np.full((rows * 3, pixel * 5), 128, np.uint8), Size(5, 3)))
    assert answer.shape == (3, 5, 3)


def test_the_same_size_as_the_last_axis_of_an_opencv_scalar() -> None:
    # OpenCV takes some arrays of one to four numbers for a scalar; images that small must not be mistaken
    for size in (Size(1, 4), Size(4, 1), Size(1, 3), Size(3, 1), Size(2, 2)):
        for encoding, pixel in (("bgr8", 3), ("mono8", 1), ("mono16", 2), ("rgba8", 4)):
            rows = np.full((size.height, size.width * pixel), 77, np.uint8)
            answer = decode_raw(raw(encoding, rows, size))
            assert answer.tolist() == [[[77] * 3] * size.width] * size.height


def test_unknown_encoding_names_the_known() -> None:
    with pytest.raises(InputError, match=r"image encoding '32FC3' is not accepted; accepted: rgb8, bgr8, .*nv24"):
        decode_raw(raw("32FC3", np.zeros((22, 408), np.uint8)))
    with pytest.raises(InputError, match=r"'8UC3' is not accepted: it does not say .* in the publisher; accepted"):
        decode_raw(raw("8UC3", np.zeros((22, 102), np.uint8)))
    with pytest.raises(InputError) as caught:
        decode_raw(raw("x" * 10_000_000, np.zeros((22, 102), np.uint8)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_step_and_length_must_fit(encoding: str) -> None:
    image = raw(encoding, noise(encoding))
    with pytest.raises(InputError, match=rf"a {encoding} image of 34x22 with step {image.step - 1} .*needs at least"):
        decode_raw(replace(image, step=image.step - 1))
    with pytest.raises(InputError, match=f"must have .* = {len(image.data)} bytes, got {len(image.data) - 1}"):
        decode_raw(replace(image, data=image.data[:-1]))
    with pytest.raises(InputError, match=f"must have .* = {len(image.data)} bytes, got {len(image.data) + 1}"):
        decode_raw(replace(image, data=image.data + array("B", [0])))
    with pytest.raises(InputError, match=r"got 0"):
        decode_raw(replace(image, data=array("B")))


def test_slivers_are_refused() -> None:
    decode_raw(raw("mono8", np.zeros((1, 64), np.uint8), Size(64, 1)))
    with pytest.raises(InputError, match="a mono8 image of 1x3000000 is not accepted: one side is more than 64 times"):
        decode_raw(raw("mono8", np.zeros((3_000_000, 1), np.uint8), Size(1, 3_000_000)))


def test_absurd_sizes_are_refused_before_anything_is_allocated() -> None:
    side = 1 << 31
    with pytest.raises(InputError, match=f"more than {MAX_PIXELS} pixels"):
        decode_raw(RawImage(Size(side, side), "nv24", side, False, b""))
    with pytest.raises(InputError, match=r"must have 3 x 4294967295 = 12884901885 bytes, got 9"):
        decode_raw(RawImage(Size(3, 3), "mono8", 2**32 - 1, False, bytes(9)))


def test_data_that_is_no_buffer() -> None:
    with pytest.raises(InputError, match=r"list that cannot be read as bytes.*array.array"):
        decode_raw(RawImage(Size(1, 1), "mono8", 1, False, [1]))


CAMERA = Size(4, 2)
NAMES = [(encoding, name) for encoding in CameraEncoding for name in encoding.messages]


@pytest.mark.parametrize("encoding, name", NAMES, ids=str)
def test_a_cameras_bytes_are_a_view_and_padding_is_taken_out(encoding: CameraEncoding, name: str) -> None:
    rows, width, channels = encoding.array_shape(CAMERA)
    pixels = np.random.default_rng(0).integers(0, 256, (rows, width * channels), np.uint8)
    data = array("B", pixels.tobytes())
    answer = camera_bytes(RawImage(CAMERA, name, width * channels, False, data), encoding, CAMERA)
    assert answer.shape == (rows, width, channels)
    np.testing.assert_array_equal(answer.reshape(pixels.shape), pixels)
    assert np.shares_memory(answer, np.frombuffer(data, np.uint8))
    assert not answer.flags.writeable
    wide = np.pad(pixels, ((0, 0), (0, 3)), constant_values=0xA5)
    padded = RawImage(CAMERA, name, wide.shape[1], False, wide.tobytes())
    np.testing.assert_array_equal(camera_bytes(padded, encoding, CAMERA), answer)


@pytest.mark.parametrize(
    "name, size, reason",
    [
        ("rgb8", CAMERA, "a rgb8 image of 4x2 is not accepted: this engine takes the camera's bytes as they are, nv12"),
        ("nv12", Size(8, 2), "a nv12 image of 8x2 .* as they are, nv12 images of 4x2"),
        ("nv12", CAMERA, "must have 3 x 4 = 12 bytes, got 0"),
    ],
)
def test_a_cameras_bytes_of_another_kind_are_refused(name: str, size: Size, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        camera_bytes(RawImage(size, name, 4, False, b""), CameraEncoding.NV12, CAMERA)


def test_an_rgb_image_as_a_camera_gives_it() -> None:
    """BT.601, studio range, by hand: red is Y 16 + 65.481, U 128 - 37.797, V 128 + 112."""
    red, white = [255, 0, 0], [255, 255, 255]
    image = np.array([[red, red, white, white]] * 2, np.uint8)
    uyvy = [[[90, 81], [240, 81], [128, 235], [128, 235]]] * 2
    nv12 = [[[81], [81], [235], [235]]] * 2 + [[[90], [240], [128], [128]]]
    assert to_camera_bytes(image, CameraEncoding.YUV422).tolist() == uyvy
    assert to_camera_bytes(image, CameraEncoding.YUV422_YUY2).tolist() == [[p[::-1] for p in row] for row in uyvy]
    assert to_camera_bytes(image, CameraEncoding.NV12).tolist() == nv12
    assert to_camera_bytes(image, CameraEncoding.BGR).tolist() == image[..., ::-1].tolist()
    assert to_camera_bytes(image, CameraEncoding.RGB) is image
    with pytest.raises(InputError, match="nv12 images of 3x2 cannot be"):
        to_camera_bytes(np.zeros((2, 3, 3), np.uint8), CameraEncoding.NV12)


@pytest.mark.parametrize("encoding", list(CameraEncoding), ids=str)
def test_what_becomes_a_cameras_bytes_decodes_to_what_it_was(encoding: CameraEncoding) -> None:
    """Where neighbors are alike, so that shared chroma loses nothing: within the rounding of YUV's bytes."""
    colors = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.ascontiguousarray(colors.repeat(2, axis=0).repeat(2, axis=1))
    made = to_camera_bytes(image, encoding)
    step = made.shape[1] * made.shape[2]
    decoded = decode_raw(RawImage(Size(16, 16), encoding.messages[0], step, False, made.tobytes()))
    assert np.abs(decoded.astype(int) - image).max() <= (3 if encoding.value[0] in "yn" else 0)


RED = (200, 40, 10)


def mosaic(pattern: str, dtype: type[np.generic] = np.uint8) -> NDArray[np.generic]:
    """What a sensor with this pattern measures of one red surface, [48, 64]."""
    tile = np.array([RED["rgb".index(color)] for color in pattern]).reshape(2, 2)
    values = np.tile(tile, (24, 32))
    return (values * 257 if dtype == np.uint16 else values).astype(dtype)


def compressed(text: str, data: bytes) -> RgbImage:
    return decode_compressed(SimpleNamespace(format=text, data=data))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_mosaic_is_demosaiced(pattern: str, suffix: str) -> None:
    text = f"bayer_{pattern}8; {'jpeg' if suffix == '.jpg' else 'png'} compressed "
    answer = compressed(text, encoded(suffix, mosaic(pattern), *((cv2.IMWRITE_JPEG_QUALITY, 100) * (suffix == ".jpg"))))
    assert answer.shape == (48, 64, 3)
    assert np.abs(answer.astype(int) - RED).max() <= (3 if suffix == ".jpg" else 0)


def test_a_mosaic_of_16_bits_and_one_that_the_driver_demosaiced() -> None:
    data = encoded(".png", mosaic("rggb", np.uint16))
    assert (compressed("bayer_rggb16; png compressed", data) == RED).all()
    assert (compressed("bayer_rggb8; png compressed", data) == RED).all()  # the depth is the file's
    color = np.full((48, 64, 3), RED, np.uint8)
    assert (compressed("bayer_rggb8; png compressed bgr8", encoded(".png", color)) == RED).all()


def test_a_mosaic_is_decoded_as_the_raw_message_is() -> None:
    """Not of one color: the same pixels whichever way the frame came."""
    noise = np.random.default_rng(1).integers(0, 256, (48, 64), np.uint8)
    raw = decode_raw(RawImage(Size(64, 48), "bayer_gbrg8", 64, False, noise.tobytes()))
    np.testing.assert_array_equal(compressed("bayer_gbrg8; png compressed", encoded(".png", noise)), raw)


def test_an_unknown_mosaic_names_the_known() -> None:
    with pytest.raises(InputError, match=r"image encoding 'bayer_xyzw8' is not accepted; accepted: .*bayer_rggb8"):
        compressed("bayer_xyzw8; png compressed", encoded(".png", mosaic("rggb")))


def test_sixteen_bits_keep_the_upper_eight() -> None:
    gray = np.full((4, 4), 0xAB12, np.uint16)
    assert (compressed("mono16; png compressed", encoded(".png", gray)) == 0xAB).all()
    red = np.zeros((4, 4, 3), np.uint16)
    red[..., 0] = 0xCD34
    assert (compressed("bgr16; png compressed bgr16", encoded(".png", red)) == (0xCD, 0, 0)).all()
    # the encoder was given RGB where it takes BGR: what it stores as red is blue
    assert (compressed("rgb16; png compressed rgb16", encoded(".png", red)) == (0, 0, 0xCD)).all()


def test_twelve_bits_in_a_png_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    say_once.cache_clear()
    low = encoded(".png", np.full((4, 4), 4095, np.uint16))
    for _ in range(2):
        assert (compressed("mono16; png compressed", low) == 15).all()  # 4095 // 256
    (record,) = caplog.records
    assert "the values of a 16-bit PNG are all below 16384 of 65535" in record.message


@pytest.mark.parametrize(
    "text", ["16UC1; compressedDepth png", "16UC1; png compressed", "32FC1; png compressed ", "h264"]
)
def test_what_is_no_picture_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^compressed image format .* is not accepted; accepted: jpeg and png"):
        compressed(text, encoded(".png", mosaic("rggb")))


def test_other_files_in_a_message_are_refused() -> None:
    color = np.zeros((4, 4, 3), np.uint8)
    for data, codec in ((encoded(".webp", color), "WebP"), (encoded(".bmp", color), "BMP"), (tiff_of(color), "TIFF")):
        with pytest.raises(InputError, match=f"format 'jpeg': its data is a {codec}, neither JPEG nor PNG"):
            compressed("jpeg", data)


def test_a_long_format_text_does_not_fill_the_error() -> None:
    with pytest.raises(InputError) as caught:
        compressed("x" * 10_000_000, b"")
    assert len(str(caught.value)) < 300


def test_label_messages_are_read_as_they_are() -> None:
    rows = np.arange(15, dtype=np.uint8).reshape(3, 5)
    message = SimpleNamespace(height=3, width=4, step=5, encoding="mono8", is_bigendian=0, data=rows.tobytes())
    assert decode_mono8(message).tolist() == rows[:, :4].tolist()
    message.encoding = "8UC1"
    assert decode_mono8(message).tolist() == rows[:, :4].tolist()
    message.encoding = "bgr8"
    with pytest.raises(InputError, match="encoding 'bgr8' is not accepted here; mono8 is"):
        decode_mono8(message)
    message.encoding, message.step = "mono8", 3
    with pytest.raises(InputError, match="a mono8 image of 4x3 with step 3 is not accepted"):
        decode_mono8(message)
