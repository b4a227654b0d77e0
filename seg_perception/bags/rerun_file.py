"""A segmented bag as a recording of the Rerun viewer (rerun.io), an optional extra.

Only a file is written: no viewer is started, nothing is sent and nothing listens (the SDK's telemetry is the
viewer's; a test watches the system calls). Everything is on the timeline "stamp", the messages' own header stamps.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_perception.bags.messages import COMPRESSED_IMAGE, IMAGE_TYPES, labels_of, rgb_of, stamp_ns_of
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import BagMessage
from seg_perception.core.errors import InputError, pip_install
from seg_perception.core.files import check_place
from seg_perception.core.label_set import LabelSet, load_label_set
from seg_perception.core.types import UNLABELED
from seg_perception.core.visual import draw_cells

_JPEG_QUALITY = 90  # of pictures for people; labels, mask and confidence are kept exactly
_GRID, _POLYGON = "nav_msgs/msg/OccupancyGrid", "geometry_msgs/msg/PolygonStamped"
_POINTS, _NUMBER = "sensor_msgs/msg/PointCloud2", "std_msgs/msg/Float64"
_TYPES = (*IMAGE_TYPES, _GRID, _POLYGON, _POINTS, _NUMBER)


def check_rerun(path: Path, overwrite: bool = False) -> None:
    """Refuse what could not be written, before any work.

    Raises:
        InputError: another ending, or the extra is not installed.
        FileExistsError: the file exists and `overwrite` is false.
    """
    if path.suffix != ".rrd":
        raise InputError(f"{path}: a Rerun recording is written as NAME.rrd")
    check_place(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: move or remove it first")
    _sdk()


@dataclass(slots=True)
class RerunReport:
    """What was written.

    Attributes:
        written: messages by topic; 0 of topics that are left out.
        rejected: messages that could not be read, by reason.
    """

    written: dict[str, int]
    rejected: Counter[str] = field(default_factory=Counter)


def write_rerun(
    source: str | Path, out: str | Path, label_set: str | Path | LabelSet = "driving", overwrite: bool = False
) -> RerunReport:
    """Write a bag's images, labels, masks, confidence, grids, points, outlines and numbers as a Rerun recording.

    Args:
        source: a bag, such as `process_bag` writes.
        out: ends in .rrd; it appears when it is complete.
        label_set: colors and names of the classes: a name, a YAML file, or loaded.
        overwrite: replace `out`.

    Raises:
        InputError: another ending; the extra "rerun" is not installed; the bag is damaged.
        SettingsError: an unknown or malformed label set.
        FileExistsError: `out` exists and `overwrite` is false.
        OSError: the bag cannot be read, or the file not written.
    """
    source, out = Path(source), Path(out)
    label_set = label_set if isinstance(label_set, LabelSet) else load_label_set(label_set)
    check_rerun(out, overwrite)
    rr = _sdk()
    partial = out.with_name(f".{out.name}.partial")
    with BagReader(source) as bag:
        report = RerunReport({topic.name: 0 for topic in bag.topics})
        wanted = [topic.name for topic in bag.topics if topic.type in _TYPES]
        recording = rr.RecordingStream("seg_perception")
        try:
            recording.save(str(partial))
            classes = [(c.id, c.name, c.color) for c in label_set.classes]
            classes.append(
                (UNLABELED, "unlabeled", (0, 0, 0))
            )  # or the viewer chooses a color, which looks like a class
            recording.log("/", rr.AnnotationContext(classes), static=True)
            for name in wanted:
                if name.endswith("/drivable"):
                    recording.log(name, rr.AnnotationContext([(255, "drivable", (0, 200, 80, 160))]), static=True)
            for message in bag.messages(wanted):
                try:
                    decoded = bag.decode(message)
                    archetype = _archetype(rr, message, decoded)
                except InputError as error:
                    report.rejected[f"{message.topic.name}: {error}"] += 1
                    continue
                stamp_ns = stamp_ns_of(decoded) if hasattr(decoded, "header") else message.stamp_ns
                recording.set_time("stamp", timestamp=np.datetime64(stamp_ns, "ns"))
                recording.log(message.topic.name, archetype)
                report.written[message.topic.name] += 1
            recording.flush()
        except BaseException as error:
            recording.disconnect()
            partial.unlink(missing_ok=True)
            if isinstance(error, RuntimeError):  # Rerun's word for a full disk
                raise OSError(errno.EIO, f"cannot write: {error}", str(out)) from error
            raise
        recording.disconnect()
    if not partial.is_file() or not partial.stat().st_size:
        raise InputError(f"{out}: Rerun wrote nothing; is logging switched off by the environment variable RERUN?")
    partial.replace(out)
    return report


def _archetype(rr: Any, message: BagMessage, decoded: Any) -> Any:
    """What one message is for Rerun."""
    kind = message.topic.type
    if kind == _NUMBER:
        return rr.Scalars(float(decoded.data))
    if kind == _GRID:
        cells = np.asarray(decoded.data, np.int8).reshape(decoded.info.height, decoded.info.width)
        return rr.Image(draw_cells(cells)).compress(jpeg_quality=_JPEG_QUALITY)
    if kind == _POLYGON:
        corners = [(corner.x, corner.y, corner.z) for corner in decoded.polygon.points]
        return rr.LineStrips3D([[*corners, corners[0]]] if corners else [])
    if kind == _POINTS:
        points, labels = _points(decoded)
        return rr.Points3D(points, class_ids=labels, radii=0.03)
    return _picture(rr, message.topic.name.rsplit("/", 1)[-1], decoded, kind)


def _picture(rr: Any, name: str, decoded: Any, kind: str) -> Any:
    if name in ("labels", "truth", "drivable"):
        return rr.SegmentationImage(labels_of(decoded, kind))
    if name == "confidence":
        return rr.Image(labels_of(decoded, kind), color_model="L")
    if kind == COMPRESSED_IMAGE and bytes(decoded.data[:2]) == b"\xff\xd8":
        return rr.EncodedImage(contents=bytes(decoded.data), media_type="image/jpeg")
    return rr.Image(np.ascontiguousarray(rgb_of(decoded, kind))).compress(jpeg_quality=_JPEG_QUALITY)


def _points(cloud: Any) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The points x, y, z [N, 3] that are known, and their labels [N]."""
    fields = {field.name: int(field.offset) for field in cloud.fields}
    if not {"x", "y", "z", "label"} <= fields.keys() or cloud.is_bigendian:
        raise InputError(f"a cloud with fields {', '.join(fields)} is not ours: x, y, z and label are expected")
    rows = np.frombuffer(np.asarray(cloud.data, np.uint8), np.uint8).reshape(-1, int(cloud.point_step))
    x, y, z = (np.ascontiguousarray(rows[:, fields[n] : fields[n] + 4]).view(np.float32)[:, 0] for n in "xyz")
    points = np.stack([x, y, z], axis=1)
    known = np.isfinite(points).all(axis=1)
    return points[known], rows[known, fields["label"]]


def _sdk() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise InputError(f"a .rrd file needs the extra rerun: {pip_install('rerun')}") from error
    return rerun
