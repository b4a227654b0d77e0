"""segmentation_node beside the node that anybody would write, and beside its parts, on the same frames.

The usual node (`run_usual`) is fifty lines: cv_bridge in and out, everything in the callback, the same ONNX file
in ONNX Runtime. The parts: the bare engine, and a node that only moves the messages (`run_relay`). "two" is ours with
`inferences_at_once: 2`. Cameras publish at half the engine's rate, at its rate and at twice its rate; labels,
confidence and the drivable mask are watched.
The contenders take turns, so that each sees the same machine; medians of the turns. Latency is from the frame's
stamp to its labels here. "beside" is what cameras and listener took of the same cores meanwhile: a node that is
saturated cannot answer more frames a second than there are cores in its own and their CPU seconds a frame.

    python benchmarks/usual_node.py --turns 5 --out out/usual_node.json
    python benchmarks/usual_node.py --sizes 1280x720 --cameras 1 --before ../older_tree
    python benchmarks/usual_node.py --apart     # cameras and listener on the last core, nodes and engine on the others
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(REPOSITORY / "config" / "fastdds_large_images.xml"))

SIZES = ((640, 480), (1280, 720), (1920, 1080))
LOADS = {"half load": 0.5, "saturation": 1.0, "overload": 2.0}
OUTPUTS = ("labels", "confidence", "drivable")
SETTLE_S = 3.0  # the node takes a second to see that frames come too fast, and one to open engines


# --- the contenders ----------------------------------------------------------------------------


def run_usual(cameras: int) -> int:
    """The fifty-line node."""
    import cv2
    import onnxruntime
    import rclpy
    from cv_bridge import CvBridge
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    from seg_perception.core.files import DEFAULT_MODEL
    from seg_perception.core.types import Size
    from seg_perception.engines.opening import open_engine
    from seg_perception.segmenter import Segmenter

    engine = open_engine(DEFAULT_MODEL, "onnxruntime")
    segmenter = Segmenter(engine)  # asked for the network's size only, so that both nodes run at the same one
    drivable_ids = engine.card.label_set.drivable_ids

    class UsualNode(Node):
        def __init__(self) -> None:
            super().__init__("usual_node")
            self.bridge = CvBridge()
            self.session = onnxruntime.InferenceSession(str(DEFAULT_MODEL), providers=["CPUExecutionProvider"])
            self.outputs: dict[tuple[int, str], Any] = {}
            for camera in range(cameras):
                for name in OUTPUTS:
                    topic = f"/usual/camera{camera}/{name}"
                    self.outputs[camera, name] = self.create_publisher(Image, topic, 5)
                self.create_subscription(
                    Image,
                    f"/usual/camera{camera}/image",
                    lambda message, camera=camera: self.on_image(camera, message),
                    qos_profile_sensor_data,
                )

        def on_image(self, camera: int, message: Image) -> None:
            image = self.bridge.imgmsg_to_cv2(message, "rgb8")
            height, width = image.shape[:2]
            size = Size.of(segmenter.prepare(image).pixels) if not hasattr(self, "size") else self.size
            self.size = size
            resized = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA)
            labels, confidence = self.session.run(None, {"image": resized[None]})
            labels = cv2.resize(labels[0], (width, height), interpolation=cv2.INTER_NEAREST)
            confidence = cv2.resize(confidence[0], (width, height), interpolation=cv2.INTER_NEAREST)
            drivable = np.where(np.isin(labels, drivable_ids) & (confidence >= 128), 255, 0).astype(np.uint8)
            for name, picture in zip(OUTPUTS, (labels, confidence, drivable)):
                answer = self.bridge.cv2_to_imgmsg(picture, "mono8")
                answer.header = message.header
                self.outputs[camera, name].publish(answer)

    rclpy.init()
    rclpy.spin(UsualNode())
    return 0


def run_relay(cameras: int) -> int:
    """What ROS alone takes: an image in, three ready-made images of its size out, and nothing computed."""
    import rclpy
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    from seg_perception.ros.messages import encode_image

    class RelayNode(Node):
        def __init__(self) -> None:
            super().__init__("relay_node")
            self.ready = Image()
            for camera in range(cameras):
                outputs = [self.create_publisher(Image, f"/relay/camera{camera}/{name}", 5) for name in OUTPUTS]
                self.create_subscription(
                    Image,
                    f"/relay/camera{camera}/image",
                    lambda message, outputs=outputs: self.on_image(outputs, message),
                    qos_profile_sensor_data,
                )

        def on_image(self, outputs: list[Any], message: Image) -> None:
            if (self.ready.height, self.ready.width) != (message.height, message.width):
                self.ready = encode_image(np.zeros((message.height, message.width), np.uint8), message.header)
            self.ready.header = message.header
            for output in outputs:
                output.publish(self.ready)

    rclpy.init()
    rclpy.spin(RelayNode())
    return 0


def run_engine(width: int, height: int, seconds: float, rate: float) -> int:
    """The bare engine: as fast as it can (rate 0), or at a rate; prints frames/s, p50, p95, CPU ms."""
    from seg_perception.core.files import DEFAULT_MODEL
    from seg_perception.engines.opening import open_engine
    from seg_perception.segmenter import Segmenter

    segmenter = Segmenter(open_engine(DEFAULT_MODEL, "onnxruntime"))
    prepared = segmenter.prepare(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))
    for _ in range(5):
        segmenter.infer([prepared])
    times, cpu, began = [], time.process_time(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        segmenter.infer([prepared])
        times.append(time.perf_counter() - start)
        if rate:
            time.sleep(max(0.0, 1 / rate - times[-1]))
    took = time.perf_counter() - began
    spent = time.process_time() - cpu
    p50, p95 = (float(np.percentile(times, p)) * 1e3 for p in (50, 95))
    print(json.dumps({"fps": len(times) / took, "p50_ms": p50, "p95_ms": p95, "cpu_ms": spent / len(times) * 1e3}))
    return 0


def run_cameras(topics: list[str], width: int, height: int, fps: float) -> int:
    """Publishes one picture on each topic in turn, `fps` on each."""
    import rclpy
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from seg_perception.core.types import Size
    from seg_perception.ros.messages import encode_image
    from seg_perception.scenes import Drive

    rclpy.init()
    node = rclpy.create_node("cameras")
    publishers = [node.create_publisher(Image, topic, 1) for topic in topics]
    message = encode_image(Drive(seed=1, size=Size(width, height)).frame(0).image, Header())
    due = time.monotonic()
    while rclpy.ok():
        for publisher in publishers:
            now = time.time_ns()
            message.header.stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
            publisher.publish(message)
            due += 1 / (fps * len(topics))
            time.sleep(max(0.0, due - time.monotonic()))
    return 0


PEERS = {"usual": run_usual, "relay": run_relay}


# --- measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """A node's process and what its topics begin with."""

    name: str
    prefix: str
    process: subprocess.Popen[bytes]

    def image(self, camera: int) -> str:
        return f"{self.prefix}/camera{camera}/image"

    def output(self, camera: int, name: str) -> str:
        node = "" if self.name in PEERS else "/segmentation_node"
        return f"{self.prefix}{node}/camera{camera}/{name}"


@dataclass(frozen=True)
class Turn:
    """One contender's numbers in one turn."""

    fps: float
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    beside_ms: float = 0.0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_role(*arguments: str) -> list[str]:
    return [sys.executable, __file__, "--role", *arguments]


def on_cores(cores: set[int] | None) -> list[str]:
    """What goes before a command that shall keep to these cores; None: to this process's."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))] if cores else []


def start_nodes(cameras: int, before: Path | None, cores: set[int] | None) -> list[Contender]:
    names = "[" + ", ".join(f"camera{index}" for index in range(cameras)) + "]"
    trees = {"ours": None, "two": None} | ({"before": before} if before else {})
    nodes = []
    for name, tree in trees.items():
        module = "seg_perception.ros.node.segmentation_node"
        if tree is not None and not (tree / "seg_perception/ros/node").is_dir():
            module = "seg_perception.ros.segmentation_node"
        parameters = ["-p", "engine:=onnxruntime", "-p", f"cameras:={names}", "-r", f"__ns:=/{name}"]
        parameters += ["-p", "inferences_at_once:=2"] if name == "two" else []
        environment = os.environ | ({"PYTHONPATH": str(tree), "ORT_DISABLE_TELEMETRY": "1"} if tree else {})
        process = subprocess.Popen(
            [*on_cores(cores), sys.executable, "-m", module, "--ros-args", *parameters],
            env=environment,
            cwd=tree or REPOSITORY,
            stderr=subprocess.DEVNULL,
        )
        nodes.append(Contender(name, f"/{name}", process))
    for name in PEERS:
        process = subprocess.Popen([*on_cores(cores), *own_role(name, str(cameras))], stderr=subprocess.DEVNULL)
        nodes.append(Contender(name, f"/{name}", process))
    return nodes


class Watcher:
    """Subscribes to every output of every contender."""

    def __init__(self, contenders: list[Contender], cameras: int) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image

        self.latencies: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        self.node = rclpy.create_node("watcher")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.subscriptions = [
            self.node.create_subscription(
                Image,
                contender.output(camera, output),
                self._arrived(contender.name) if output == "labels" else lambda _: None,
                qos_profile_sensor_data,
            )
            for contender in contenders
            for camera in range(cameras)
            for output in OUTPUTS
        ]

    def _arrived(self, name: str) -> Any:
        def arrived(message: Any) -> None:
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            self.latencies[name].append((time.time_ns() - stamp) * 1e-6)

        return arrived

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def wait_for_nodes(self, timeout: float = 120.0) -> None:
        deadline = time.monotonic() + timeout
        while not all(subscription.get_publisher_count() for subscription in self.subscriptions):
            self.spin(0.2)
            if time.monotonic() > deadline:
                raise TimeoutError("not every node came up")

    def measure(self, contender: Contender, cameras: int, size: tuple[int, int], fps: float, seconds: float) -> Turn:
        topics = [contender.image(camera) for camera in range(cameras)]
        publisher = subprocess.Popen(own_role("cameras", *map(str, size), str(fps), *topics), stderr=subprocess.DEVNULL)
        seen = self.latencies[contender.name]
        try:
            deadline = time.monotonic() + 30
            seen.clear()
            while not seen and time.monotonic() < deadline:
                self.spin(0.1)
            self.spin(SETTLE_S)
            seen.clear()
            processes = (contender.process.pid, publisher.pid, os.getpid())
            cpu, began = [cpu_seconds(pid) for pid in processes], time.monotonic()
            self.spin(seconds)
            took = time.monotonic() - began
            spent, *beside = (cpu_seconds(pid) - then for pid, then in zip(processes, cpu, strict=True))
            taken = list(seen)
        finally:
            publisher.send_signal(signal.SIGINT)
            publisher.wait(20)
        if not taken:
            return Turn(0.0, *[float("nan")] * 4)
        p50, p95 = (float(np.percentile(taken, p)) for p in (50, 95))
        return Turn(len(taken) / took, p50, p95, spent / len(taken) * 1e3, sum(beside) / len(taken) * 1e3)


def bare(size: tuple[int, int], seconds: float, rate: float, cores: set[int] | None) -> Turn:
    command = [*on_cores(cores), *own_role("engine", *map(str, size), str(seconds), str(rate))]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return Turn(**json.loads(result.stdout))


def median(turns: list[Turn]) -> Turn:
    return Turn(*(float(np.nanmedian([getattr(turn, key) for turn in turns])) for key in asdict(turns[0])))


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    import rclpy

    cores = None
    if arguments.apart:
        *first, last = sorted(os.sched_getaffinity(0))
        cores = set(first)
        os.sched_setaffinity(0, {last})  # before DDS starts its threads
    rclpy.init()
    report: dict[str, Any] = {}
    for cameras in arguments.cameras:
        contenders = start_nodes(cameras, arguments.before, cores)
        watcher = Watcher(contenders, cameras)
        try:
            watcher.wait_for_nodes()
            for size in arguments.sizes:
                rate = bare(size, arguments.seconds, 0.0, cores).fps
                for load in arguments.loads:
                    turns: dict[str, list[Turn]] = {name.name: [] for name in contenders} | {"engine": []}
                    for _ in range(arguments.turns):
                        for contender in contenders:
                            fps = rate * LOADS[load] / cameras
                            turns[contender.name].append(
                                watcher.measure(contender, cameras, size, fps, arguments.seconds)
                            )
                        asked = rate / 2 if load == "half load" else 0.0
                        turns["engine"].append(bare(size, arguments.seconds, asked, cores))
                    rows = {name: median(of) for name, of in turns.items()}
                    cell = f"{cameras} x {size[0]}x{size[1]}, {load}"
                    report[cell] = {name: asdict(row) for name, row in rows.items()}
                    print_cell(cell, rows)
        finally:
            watcher.executor.shutdown()
            watcher.node.destroy_node()
            for contender in contenders:
                contender.process.send_signal(signal.SIGINT)
                contender.process.wait(20)
    rclpy.shutdown()
    return report


def print_cell(cell: str, rows: dict[str, Turn]) -> None:
    print(f"{cell} (load average {os.getloadavg()[0]:.1f})")
    for name, row in rows.items():
        print(
            f"  {name:>8} {row.fps:>6.1f} frames/s {row.p50_ms:>8.1f} ms p50 {row.p95_ms:>8.1f} ms p95 "
            f"{row.cpu_ms:>7.1f} CPU ms a frame {row.beside_ms:>6.1f} beside",
            flush=True,
        )


def size_of(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=(*PEERS, "engine", "cameras"))
    parser.add_argument("--sizes", type=size_of, nargs="+", default=SIZES)
    parser.add_argument("--cameras", type=int, nargs="+", default=(1, 3))
    parser.add_argument("--loads", choices=tuple(LOADS), nargs="+", default=tuple(LOADS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--apart", action="store_true", help="cameras and listener on a core of their own")
    parser.add_argument("--before", type=Path, help="another source tree of this package, to compare with")
    parser.add_argument("--out", type=Path, default=Path("out/usual_node.json"))
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_args()
    rest = arguments.rest
    if arguments.role in PEERS:
        return PEERS[arguments.role](int(rest[0]))
    if arguments.role == "engine":
        return run_engine(int(rest[0]), int(rest[1]), float(rest[2]), float(rest[3]))
    if arguments.role == "cameras":
        return run_cameras(rest[3:], int(rest[0]), int(rest[1]), float(rest[2]))
    print(f"{os.cpu_count()} cores; medians of {arguments.turns} turns of {arguments.seconds:g} s, interleaved")
    report = measure_all(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
