"""Does the node end cleanly whenever it is told to? Starts it again and again and signals it at a random moment.

The moment is drawn from when the node's own code runs (before that, Python's start-up has no handlers yet)
to a second after it is active; SIGINT or SIGTERM goes to the process or straight to one of its threads, DDS's
among them, as the kernel may choose. Wanted: exit status 0 within a second, no traceback, no abort.

    python benchmarks/stop_anytime.py --runs 200 --busy 2 --out out/stop_anytime.json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

COMMAND = (sys.executable, "-m", "seg_perception.ros.node.segmentation_node")
WRONG_WORDS = ("Traceback", "terminate called", "Aborted", "Segmentation fault")
_TGKILL = 234 if os.uname().machine == "x86_64" else 131  # system call numbers: x86-64, aarch64


def in_mask(status: Path, mask: str, number: signal.Signals) -> bool:
    """Whether a process or thread has a signal in its SigCgt (handled) or SigBlk (blocked)."""
    line = next(line for line in status.read_text().splitlines() if line.startswith(mask))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def catches_sigterm(pid: int) -> bool:
    return in_mask(Path(f"/proc/{pid}/status"), "SigCgt", signal.SIGTERM)


def send(pid: int, number: signal.Signals, to_thread: bool) -> str:
    """To the process, or to a thread that is drawn from those that the kernel may choose; answers whose."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if not in_mask(task / "status", "SigBlk", number)]
    if not to_thread or not tasks:  # a thread that is being started blocks all signals for a moment
        os.kill(pid, number)
        return "process"
    thread = int(random.choice(tasks).name)
    ctypes.CDLL(None).syscall(_TGKILL, pid, thread, int(number))
    return "main thread" if thread == pid else "another thread"


def run_once(longest_s: float) -> dict[str, object]:
    number = random.choice((signal.SIGINT, signal.SIGTERM))
    delay = random.uniform(0.0, longest_s)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(COMMAND, stdout=output, stderr=output)
        while process.poll() is None and not catches_sigterm(process.pid):
            time.sleep(0.002)
        time.sleep(delay)
        whose = send(process.pid, number, random.random() < 0.5)
        sent = time.monotonic()
        try:
            status: int | None = process.wait(15)
        except subprocess.TimeoutExpired:
            status = None
            process.kill()
            process.wait()
        took = time.monotonic() - sent
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return {
        "signal": number.name,
        "to": whose,
        "delay_s": delay,
        "status": status,
        "took_s": took,
        "wrong": [word for word in WRONG_WORDS if word in text],
        "reached": "active" if "now active" in text else "opening" if "vision_msgs" in text else "importing",
        "text": text[-2000:] if status != 0 else "",
    }


def busy() -> None:
    while True:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--busy", type=int, default=0, help="busy loops beside it")
    parser.add_argument("--longest", type=float, default=4.0, help="the latest moment, seconds after its code began")
    parser.add_argument("--out", type=Path, default=Path("out/stop_anytime.json"))
    arguments = parser.parse_args()
    loops = [multiprocessing.Process(target=busy, daemon=True) for _ in range(arguments.busy)]
    for loop in loops:
        loop.start()
    rows = []
    try:
        for _ in range(arguments.runs):
            rows.append(run_once(arguments.longest))
            if rows[-1]["status"] != 0 or rows[-1]["wrong"]:
                print(json.dumps(rows[-1]), flush=True)
    finally:
        for loop in loops:
            loop.terminate()
    took = sorted(float(str(row["took_s"])) for row in rows)
    print(f"{len(rows)} runs beside {arguments.busy} busy loops; statuses {dict(Counter(r['status'] for r in rows))}")
    print(f"signaled while {dict(Counter(r['reached'] for r in rows))}, to {dict(Counter(r['to'] for r in rows))}")
    print(f"seconds to the end: median {took[len(took) // 2]:.2f}, longest {took[-1]:.2f}; ", end="")
    print(f"over one second: {sum(t > 1.0 for t in took)}; wrong words: {sum(bool(r['wrong']) for r in rows)}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=2))
    return 0 if all(row["status"] == 0 and not row["wrong"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
