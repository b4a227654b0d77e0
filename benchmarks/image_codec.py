"""How exact decoding is, for every encoding; then CPU time per frame of decoding and encoding images, beside
cv_bridge in the same run, and of mask and pictures.

    python benchmarks/image_codec.py [--rounds 30] [--json out/image_codec.json]

Errors are of random bytes against conversions written from the encodings' definitions
(test/helpers/reference_conversions.py), in steps of 255. Each time is the median over the rounds of the
process's CPU time (all threads), in milliseconds. Ours and cv_bridge's calls alternate, so that both see
the same load of the machine. cv_bridge is whichever one Python imports: the robot's own, or the PyPI port
(which does not handle padded rows). The exit status is 1 if an error is larger than the tests accept.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from cv_bridge import CvBridge
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.image_message import ENCODINGS, RawImage, decode_raw
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import LabelImage, RgbImage, Segmentation, Size
from seg_perception.core.visual import colorize, overlay
from seg_perception.ros.messages import decode_compressed, decode_image, encode_image, encode_png

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "helpers"))

from reference_conversions import REFERENCES, SIZE, noise

SIZES = (Size(1280, 720), Size(1920, 1080))
HEADER = Header(frame_id="camera")


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table; times in CPU milliseconds a frame."""

    what: str
    size: str
    ours_ms: float
    cv_bridge_ms: float | None
    ratio: float | None  # ours / cv_bridge
    note: str


@dataclass(frozen=True, slots=True)
class Error:
    """Of one encoding against the independent conversion, in steps of 255."""

    encoding: str
    largest: int
    mean: float
    accepted: int  # by the tests


def errors() -> list[Error]:
    """Every encoding's, of random bytes."""
    found = []
    for encoding, (reference, accepted) in REFERENCES.items():
        rows = noise(encoding)
        image = RawImage(SIZE, encoding, rows.shape[1], False, array("B", rows.tobytes()))
        error = np.abs(decode_raw(image).astype(np.int16) - reference(rows))
        found.append(Error(encoding, int(error.max()), float(error.mean()), accepted))
    return found


def error_table(found: list[Error]) -> str:
    """The errors as text."""
    lines = [f"{'encoding':<14}{'max error':>10}{'mean error':>12}{'accepted':>10}"]
    lines += [f"{e.encoding:<14}{e.largest:>10}{e.mean:>12.4f}{e.accepted:>10}" for e in found]
    return "\n".join(lines)


def median_cpu_ms(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The median CPU time of each call, after one warm-up round; the calls alternate."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, measured in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            measured.append((time.process_time() - start) * 1e3)
    return [statistics.median(measured[1:]) for measured in times]


def compare(
    what: str, size: Size, ours: Callable[[], object], bridge: Callable[[], object] | None, rounds: int
) -> Result:
    """Measure ours and, where there is one that works, cv_bridge's way."""
    note = ""
    if bridge is not None:
        try:
            bridge()
        except Exception as error:  # noqa: BLE001  whatever its reason, it goes into the table
            note, bridge = f"cv_bridge: {type(error).__name__}: {str(error)[:40]}", None
    times = median_cpu_ms([ours] if bridge is None else [ours, bridge], rounds)
    theirs = times[1] if bridge is not None else None
    return Result(what, str(size), times[0], theirs, None if not theirs else times[0] / theirs, note)


def street(size: Size) -> tuple[RgbImage, LabelImage]:
    """A street-like picture (smooth with some noise, as a camera's) and its labels."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (size.height // 40, size.width // 40, 3), np.uint8)
    image = cv2.resize(small, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(0, 8, image.shape, np.uint8)
    labels = np.full((size.height, size.width), 9, np.uint8)
    middle, bottom = size.width // 2, size.height - 1
    corners = [[middle - 40, size.height // 2], [middle + 40, size.height // 2], [size.width, bottom], [0, bottom]]
    cv2.fillPoly(labels, [np.array(corners, np.int32)], (0,))
    for x, y in rng.integers(0, (size.width - 20, size.height - 20), (150, 2)):
        labels[y : y + 20, x : x + 20] = rng.integers(0, 10)
    return np.asarray(cv2.add(image, grain), np.uint8), labels


def message(encoding: str, size: Size, image: RgbImage, padding: int = 0) -> Image:
    """Bytes of the right number; their meaning does not change the time."""
    layout = ENCODINGS[encoding]
    step = layout.row_bytes(size.width) + padding
    data = np.resize(image.reshape(-1), layout.rows(size.height) * step)
    return Image(
        header=HEADER,
        width=size.width,
        height=size.height,
        encoding=encoding,
        step=step,
        data=array("B", data.tobytes()),
    )


def measure_size(size: Size, rounds: int) -> list[Result]:
    """All rows of one image size."""
    bridge, label_set = CvBridge(), load_label_set()
    image, labels = street(size)
    results = []
    for encoding in ENCODINGS:
        msg = message(encoding, size, image)
        results.append(
            compare(
                f"decode {encoding}",
                size,
                lambda msg=msg: decode_image(msg),  # type: ignore[misc]
                lambda msg=msg: bridge.imgmsg_to_cv2(msg, "rgb8"),  # type: ignore[misc]
                rounds,
            )
        )
    wide = message("bgr8", size, image, padding=64)
    results.append(compare("decode bgr8, padded rows", size, lambda: decode_image(wide), None, rounds))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    for extension, text in ((".jpg", "jpeg"), (".png", "png")):
        packed = CompressedImage(format=text, data=array("B", cv2.imencode(extension, bgr)[1].tobytes()))
        results.append(
            compare(
                f"decode {text}, {len(packed.data) // 1024} KiB",
                size,
                lambda packed=packed: decode_compressed(packed),  # type: ignore[misc]
                lambda packed=packed: cv2.cvtColor(bridge.compressed_imgmsg_to_cv2(packed), cv2.COLOR_BGR2RGB),  # type: ignore[misc]
                rounds,
            )
        )
    for what, pixels in (("rgb8", image), ("mono8", labels)):
        results.append(
            compare(
                f"encode {what}",
                size,
                lambda pixels=pixels: encode_image(pixels, HEADER),  # type: ignore[misc]
                lambda pixels=pixels, what=what: bridge.cv2_to_imgmsg(pixels, what),  # type: ignore[misc]
                rounds,
            )
        )
    kib = len(encode_png(labels, HEADER).data) / 1024
    results.append(
        compare(
            f"encode labels as png, {kib:.0f} KiB",
            size,
            lambda: encode_png(labels, HEADER),
            lambda: bridge.cv2_to_compressed_imgmsg(labels, "png"),
            rounds,
        )
    )
    segmentation = Segmentation(labels, np.full(labels.shape, 200, np.uint8))
    bonnet = ((0.2, 0.95, 0.8, 0.95, 0.9, 1.0, 0.1, 1.0),)
    for what, settings in (
        ("mask: raw", DrivableSettings(min_confidence=0.0)),
        ("mask: + confidence", DrivableSettings(min_confidence=0.5)),
        ("mask: + ignore region", DrivableSettings(min_confidence=0.5, ignore_polygons=bonnet)),
        ("mask: + connected", DrivableSettings(None, 0.5, bonnet, connected_to_ego=True)),
        ("mask: + temporal", DrivableSettings(None, 0.5, bonnet, connected_to_ego=True, appear_frames=3)),
    ):
        masker = DrivableMasker(settings, label_set)
        results.append(compare(what, size, lambda m=masker: m.mask(segmentation), None, rounds))  # type: ignore[misc]
    results.append(compare("colorize", size, lambda: colorize(labels, label_set), None, rounds))
    results.append(compare("overlay", size, lambda: overlay(image, labels, label_set), None, rounds))
    return results


def table(results: list[Result]) -> str:
    """The results as text."""
    lines = [f"{'what':<36}{'size':>11}{'ours ms':>10}{'cv_bridge ms':>14}{'ratio':>8}  note"]
    for r in results:
        theirs = "-" if r.cv_bridge_ms is None else f"{r.cv_bridge_ms:.3f}"
        ratio = "-" if r.ratio is None else f"{r.ratio:.2f}"
        lines.append(f"{r.what:<36}{r.size:>11}{r.ours_ms:>10.3f}{theirs:>14}{ratio:>8}  {r.note}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds of each row (default 30)")
    parser.add_argument(
        "--json", type=Path, default=Path("out/image_codec.json"), metavar="FILE", help="(default: %(default)s)"
    )
    arguments = parser.parse_args()
    exactness = errors()
    print(error_table(exactness), end="\n\n", flush=True)
    results = [row for size in SIZES for row in measure_size(size, arguments.rounds)]
    print(table(results))
    document = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "opencv_threads": cv2.getNumThreads(),
        "rounds": arguments.rounds,
        "errors": [asdict(error) for error in exactness],
        "results": [asdict(row) for row in results],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(any(error.largest > error.accepted for error in exactness))


if __name__ == "__main__":
    raise SystemExit(main())
