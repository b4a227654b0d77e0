"""What the CPU engines must know of the processor."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Precision

_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPUINFO = Path("/proc/cpuinfo")


@cache
def _cpuinfo(field: str) -> str:
    """The first processor's line of this name; "" where there is none."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def processor_name() -> str:
    """The processor as its maker names it, and its architecture."""
    return f"{_cpuinfo('model name') or platform.processor() or 'processor'} ({platform.machine()})"


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


@cache
def sums_int8_exactly() -> bool:
    """Whether products of int8 are summed in 32 bits: on x86-64 with VNNI or AMX, and on other processors.

    x86-64 without them sums pairs in 16 bits, and runtimes let the sum overflow.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return not _INT8_FLAGS.isdisjoint(_cpuinfo("flags").split())


def demand_exact_int8(card: ModelCard) -> None:
    """Refuse an int8 graph where its sums overflow: up to half of the labels were seen to be wrong.

    Raises:
        EngineError: an int8 model, and a processor that does not sum int8 exactly.
    """
    if card.precision is Precision.INT8 and not sums_int8_exactly():
        raise EngineError(
            f"{card.id} is an int8 model, and this processor has no VNNI (avx512_vnni, avx_vnni or amx_int8): "
            "sums would overflow and labels be wrong; take the fp32 export here"
        )
