"""Compressed messages as image_transport's plugin and cameras write them; raw label messages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from handmade import encoded, tiff_of

from seg_perception.core.codecs import base
from seg_perception.core.errors import InputError
from seg_perception.core.image_message import decode_compressed, decode_mono8
from seg_perception.core.raw_image import RawImage, decode_raw
from seg_perception.core.types import RgbImage, Size

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
    base.say_once.cache_clear()
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
