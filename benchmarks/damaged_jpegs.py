"""How many damaged JPEGs that still end with their end marker are taken for good ones.

    python benchmarks/damaged_jpegs.py [--count 3000] [--json out/damaged_jpegs.json]

Good JPEGs of several encoders (OpenCV, Pillow, simplejpeg, ffmpeg) and kinds (chroma sampling,
progressive, restart markers, optimized tables, gray, qualities; USB cameras' padding and missing
tables) must all be accepted. Each is then damaged at random: the scan cut short, bytes lost in
mid-frame, bytes overwritten, a bit flipped; the end marker stays. Of the damaged ones that are accepted, the
pixels that differ from the whole picture's by more than 8 of 255 are counted. "OpenCV" is what remains where
simplejpeg is not installed (its libjpeg writes warnings to stderr). The exit status is 1 if a good one is refused.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import cv2
import imageio_ffmpeg
import numpy as np
import simplejpeg
from PIL import Image

from seg_perception.core.codecs import jpeg
from seg_perception.core.errors import InputError
from seg_perception.core.image_file import decode_rgb
from seg_perception.core.types import RgbImage, Size
from seg_perception.scenes import random_scene

SIZE = Size(640, 360)


def good_jpegs(image: RgbImage) -> Iterator[tuple[str, bytes]]:
    """One picture by every encoder and kind."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])

    def opencv(*settings: int, pixels: np.ndarray = bgr) -> bytes:
        return cv2.imencode(".jpg", pixels, list(settings))[1].tobytes()

    for quality in (30, 80, 95, 100):
        yield f"OpenCV quality {quality}", opencv(cv2.IMWRITE_JPEG_QUALITY, quality)
    yield "OpenCV progressive", opencv(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    yield "OpenCV optimized", opencv(cv2.IMWRITE_JPEG_OPTIMIZE, 1)
    yield "OpenCV gray", opencv(pixels=cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY))
    for interval in (1, 4, 40):
        yield f"OpenCV restart {interval}", opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, interval)
    for name in ("411", "420", "422", "440", "444"):
        factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
        yield f"OpenCV 4:{name[1]}:{name[2]}", opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
    for mode in ("RGB", "L"):
        for progressive in (False, True):
            for sampling in (0, 1, 2):
                file = io.BytesIO()
                Image.fromarray(image).convert(mode).save(
                    file, "JPEG", quality=85, progressive=progressive, subsampling=sampling, exif=b"Exif\0\0MM\0*"
                )
                yield f"Pillow {mode} {'progressive' if progressive else 'baseline'} {sampling}", file.getvalue()
    for sampling in ("444", "422", "420", "440", "411"):
        data = simplejpeg.encode_jpeg(image, colorsubsampling=sampling)
        yield f"simplejpeg {sampling}", data
    for pixels in ("yuvj420p", "yuvj422p", "yuvj444p"):
        yield f"ffmpeg {pixels}", ffmpeg(image, pixels)
    whole = opencv()
    bare = whole
    while (at := bare.find(b"\xff\xc4")) >= 0:
        bare = bare[:at] + bare[at + 2 + int.from_bytes(bare[at + 2 : at + 4], "big") :]
    yield "camera without tables", bare
    yield "camera, zeros before the end", whole[:-2] + bytes(6) + whole[-2:]
    yield "camera, fill before the end", whole[:-2] + b"\xff" * 9 + whole[-2:]
    yield "camera, zeros after the end", whole + bytes(5000)


def ffmpeg(image: RgbImage, pixels: str) -> bytes:
    """ffmpeg's own motion JPEG encoder."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", str(Size.of(image)), "-i", "-", "-c:v", "mjpeg", "-pix_fmt", pixels, "-f", "mjpeg", "-"]
    return subprocess.run(command, input=image.tobytes(), capture_output=True, check=True).stdout


def damaged(whole: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """The file with its picture's data damaged, its head and end marker as they were."""
    start = whole.index(b"\xff\xda") + 14
    end = whole.rindex(b"\xff\xd9")
    at = int(rng.integers(start, end - 2))
    if kind == "cut short":
        return whole[:at] + whole[end:]
    if kind == "bytes lost":
        return whole[:at] + whole[min(end, at + int(rng.integers(1, 1500))) :]
    changed = bytearray(whole)
    if kind == "bytes overwritten":
        length = min(int(rng.integers(4, 600)), end - at)
        changed[at : at + length] = rng.integers(0, 255, length, np.uint8).tobytes()  # no FF: no markers of its own
    else:
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


KINDS = ("cut short", "bytes lost", "bytes overwritten", "one bit flipped")


def accepted(decode: Callable[[bytes], RgbImage], data: bytes) -> RgbImage | None:
    """The pixels, or None if the file is refused."""
    try:
        return decode(data)
    except InputError:
        return None


def ours(data: bytes) -> RgbImage:
    """As the product decodes."""
    return decode_rgb(data, "x")


def without_simplejpeg(data: bytes) -> RgbImage:
    """As the product decodes where simplejpeg is missing."""
    with mock.patch.object(jpeg, "find_simplejpeg", return_value=None):
        return decode_rgb(data, "x")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="damaged files (default 3000)")
    parser.add_argument(
        "--json", type=Path, default=Path("out/damaged_jpegs.json"), metavar="FILE", help="(default: %(default)s)"
    )
    arguments = parser.parse_args()
    good = [item for seed in (1, 2) for item in good_jpegs(random_scene(seed, SIZE).image)]
    refused = [name for name, data in good if accepted(ours, data) is None]
    print(f"{len(good)} good files of {len({name for name, _ in good})} kinds: {len(refused)} refused {refused}")
    rng = np.random.default_rng(0)
    tried: Counter[str] = Counter()
    taken: dict[str, Counter[str]] = {"ours": Counter(), "OpenCV": Counter()}
    wrong: dict[str, list[float]] = defaultdict(list)
    for index in range(arguments.count):
        whole = good[index % len(good)][1]
        kind = KINDS[int(rng.choice(4, p=(0.4, 0.4, 0.15, 0.05)))]
        data = damaged(whole, kind, rng)
        tried[kind] += 1
        for who, decode in (("ours", ours), ("OpenCV", without_simplejpeg)):
            pixels = accepted(decode, data)
            if pixels is not None:
                taken[who][kind] += 1
                difference = np.abs(pixels.astype(np.int16) - ours(whole)).max(axis=2)
                wrong[f"{who} {kind}"].append(float((difference > 8).mean()))
    print(
        f"{'damage':<20}{'files':>7}{'OpenCV takes':>14}{'ours takes':>12}{'pixels wrong, OpenCV / ours (median)':>40}"
    )
    for kind in KINDS:
        medians = [f"{100 * np.median(wrong[f'{who} {kind}'] or [0]):.1f} %" for who in ("OpenCV", "ours")]
        counts = (tried[kind], taken["OpenCV"][kind], taken["ours"][kind])
        print(f"{kind:<20}{counts[0]:>7}{counts[1]:>14}{counts[2]:>12}{' / '.join(medians):>30}")
    totals = {who: sum(counts.values()) for who, counts in taken.items()}
    print(f"{'all':<20}{arguments.count:>7}{totals['OpenCV']:>14}{totals['ours']:>12}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"good": len(good), "good_refused": refused, "tried": tried, "taken": taken}
    arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
