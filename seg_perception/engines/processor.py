"""What the CPU engines must know of the processor."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from seg_perception.core.errors import EngineError

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

INT8_IN_FLOAT = "int8, computed in {}"
"""An engine's precision then; for people."""
_NO_VNNI = "this processor has no VNNI (avx512_vnni, avx_vnni or amx_int8)"
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPUINFO = Path("/proc/cpuinfo")


_BOARD = Path("/proc/device-tree/model")
_IDENTIFYING = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"}  # x86
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"}  # ARM
)


@cache
def _cpuinfo_lines(path: Path) -> tuple[tuple[str, str], ...]:
    """Names and values of all processors."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return tuple((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))


def _cpuinfo(field: str, path: Path = _CPUINFO) -> str:
    """The first processor's line of this name; "" where there is none."""
    return next((value for name, value in _cpuinfo_lines(path) if name == field), "")


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor as its maker names it, or the board where the kernel has no name for it, and its architecture."""
    board = _BOARD.read_text(encoding="utf-8", errors="replace").strip("\0 \n") if _BOARD.is_file() else ""
    name = _cpuinfo("model name", cpuinfo) or board or platform.processor() or "processor"
    return f"{name} ({platform.machine()})"


def processor_identity(cpuinfo: Path = _CPUINFO) -> str:
    """The name, and a digest of what tells processors of one name apart: model, stepping and abilities."""
    telling = sorted({f"{name}: {value}" for name, value in _cpuinfo_lines(cpuinfo) if name in _IDENTIFYING})
    return f"{processor_name(cpuinfo)} {hashlib.sha256(chr(10).join(telling).encode()).hexdigest()[:12]}"


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: those it may run on, but no more than its container is given time for.

    A container with `--cpus 2` on a machine of 16 cores runs on all of them and is stopped when its time is used up:
    16 threads would all stand still for most of each tenth of a second. Source: cpu.max of cgroup v2, and
    cpu.cfs_quota_us of v1.
    """
    cores = len(os.sched_getaffinity(0))
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers
        for folder in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
            cores = min(cores, _core_limit(folder) or cores)
            if folder == root:
                break
    return cores


def _core_limit(cgroup: Path) -> int | None:
    """Cores that a control group has time for, rounded up; None: no limit."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (cgroup / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period")
            )
        return None if quota in ("max", "-1") else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None


@cache
def sums_int8_exactly() -> bool:
    """Whether products of int8 are summed in 32 bits: on x86-64 with VNNI or AMX, and on other processors.

    x86-64 without them sums pairs in 16 bits, and runtimes let the sum overflow.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return not _INT8_FLAGS.isdisjoint(_cpuinfo("flags").split())


def int8_in_float(graph: onnx.ModelProto, name: str) -> bool:
    """Whether int8 must be computed in fp32 here: rounded as the graph says, summed without an overflow.

    Args:
        graph: any.
        name: of the model, for people.

    Raises:
        EngineError: it has operators that cannot be computed so.
    """
    operators = {node.op_type for node in graph.graph.node}
    if sums_int8_exactly():
        return False
    if whole := sorted(name for name in operators if name.startswith("QLinear") or name.endswith("Integer")):
        raise EngineError(
            f"{name} computes in int8 ({', '.join(whole)}), and {_NO_VNNI}: sums would overflow and labels be wrong; "
            "take the fp32 export, or an int8 graph with QuantizeLinear and DequantizeLinear instead"
        )
    return "QuantizeLinear" in operators


def tell_int8_in_float(name: str) -> None:
    """What it costs, in the log."""
    log.warning(
        "%s: %s, so int8 is computed in fp32: exact, but slower than the fp32 export (1.8 times as much work in ONNX "
        "Runtime), which is the one to drive with on this machine",
        name, _NO_VNNI,
    )  # fmt: skip
