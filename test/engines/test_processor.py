"""Cores that may be used: those of the machine, less what a container is not given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seg_perception.engines.processor import usable_cores

THERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "own, files, cores",
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),  # docker run --cpus 1
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),  # half a core is still a thread
        ("0::/\n", {"cpu.max": "max 100000"}, THERE),
        ("0::/\n", {"cpu.max": f"{100000 * THERE + 1} 100000"}, THERE),
        ("0::/a.slice/b\n", {"a.slice/cpu.max": "10000 100000", "a.slice/b/cpu.max": "max 100000"}, 1),
        ("0::/host/only\n", {"cpu.max": "100000 100000"}, 1),  # a path that the container does not see
        ("4:cpu,cpuacct:/x\n0::/\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "90000",
                                      "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, THERE),
        ("4:memory:/\n", {"memory/cpu.max": "10000 100000"}, THERE),
        ("0::/\n", {"cpu.max": "junk"}, THERE),
        ("0::/\n", {}, THERE),
    ],
)  # fmt: skip
def test_a_container_s_time_bounds_the_threads(own: str, files: dict[str, str], cores: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert usable_cores(tmp_path / "sys", tmp_path / "own") == cores


def test_without_control_groups_the_machine_is_asked(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "none") == THERE
