"""What pages cost the node: frames a second and CPU with no page, with one and with ten, in one run.

    python benchmarks/view_cost.py --turns 5 [--out out/view_cost.json]

One node (view.port on), images at twice its rate. The numbers of pages take turns, so that each sees the same machine;
ratios to the turns without a page, medians. Pages read and answer like browsers, in a process of their own, which
shares these cores: its own CPU time is not the node's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(REPOSITORY / "config" / "fastdds_large_images.xml"))
PAGES = (0, 1, 10)


async def _browse(port: int, pages: int) -> None:
    import aiohttp

    async def one(session: Any) -> None:
        async with session.ws_connect(f"http://127.0.0.1:{port}/ws", max_msg_size=0) as page:
            look = {"type": "look", "cameras": [""], "view": "overlay", "opacity": 0.5, "width": 640}
            await page.send_json(look)
            async for message in page:
                if message.type is aiohttp.WSMsgType.BINARY:
                    await page.send_json({"type": "next", "camera": ""})

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session) for _ in range(pages)))


class _Count:
    """Labels that arrive."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        rclpy.init()
        self.node = rclpy.create_node("view_cost")
        self.count = 0
        self.node.create_subscription(Image, "/segmentation_node/labels", self._note, 5)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def _note(self, _message: Any) -> None:
        self.count += 1

    def over(self, seconds: float) -> float:
        """Frames a second."""
        self.count, began = 0, time.monotonic()
        while (spent := time.monotonic() - began) < seconds:
            self._executor.spin_once(timeout_sec=0.05)
        return self.count / spent


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=Path("out/view_cost.json"))
    parser.add_argument("--role", choices=["pages"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pages", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        asyncio.run(_browse(arguments.port, arguments.pages))
        return 0
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    python = [sys.executable]
    node = subprocess.Popen(
        [*python, "-m", "seg_perception.ros.node.segmentation_node", "--ros-args",
         "-p", f"view.port:={port}", "-p", "view.rate:=5.0", "-r", "image:=/camera"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cameras = subprocess.Popen(
        [*python, str(REPOSITORY / "benchmarks" / "usual_node.py"), "--role", "cameras",
         "640", "480", "60", "/camera"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rows: dict[int, list[tuple[float, float]]] = {pages: [] for pages in PAGES}
    try:
        count = _Count()
        deadline = time.monotonic() + 60
        while count.over(1.0) == 0:
            if time.monotonic() > deadline:
                print("the node answered nothing within 60 s", file=sys.stderr)
                return 1
        for _ in range(arguments.turns):
            for pages in PAGES:
                command = [*python, __file__, "--role", "pages", "--port", str(port), "--pages", str(pages)]
                readers = subprocess.Popen(command) if pages else None
                time.sleep(2.0)
                cpu = _cpu_seconds(node.pid)
                fps = count.over(arguments.seconds)
                rows[pages].append((fps, (_cpu_seconds(node.pid) - cpu) / arguments.seconds))
                if readers is not None:
                    readers.kill()
                    readers.wait()
    finally:
        for process in (cameras, node):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    print(f"{'pages':>6}{'frames/s':>10}{'ratio':>8}{'CPU ms a frame':>16}{'ratio':>8}")
    result = []
    for pages in PAGES:
        fps, cpu = (median(row[i] for row in rows[pages]) for i in (0, 1))
        per_frame = [row[1] / max(row[0], 1e-6) * 1e3 for row in rows[pages]]
        base = [row[1] / max(row[0], 1e-6) * 1e3 for row in rows[0]]
        ratio = median(mine[0] / none[0] for mine, none in zip(rows[pages], rows[0]))
        cpu_ratio = median(mine / none for mine, none in zip(per_frame, base))
        print(f"{pages:>6}{fps:>10.1f}{ratio:>8.2f}{median(per_frame):>16.1f}{cpu_ratio:>8.2f}")
        result.append({"pages": pages, "fps": fps, "ratio": ratio, "cpu_ms": median(per_frame), "cpu_ratio": cpu_ratio})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
