"""What the CPU engines must know of the processor."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.core.model_card import ModelCard

_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


@cache
def sums_int8_exactly() -> bool:
    """Whether products of int8 are summed in 32 bits: on x86-64 with VNNI or AMX, and on other processors.

    x86-64 without them sums pairs in 16 bits, and runtimes let the sum overflow.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not _INT8_FLAGS.isdisjoint(flags)


def demand_exact_int8(card: ModelCard) -> None:
    """Refuse an int8 graph where its sums overflow: up to half of the labels were seen to be wrong.

    Raises:
        EngineError: an int8 model, and a processor that does not sum int8 exactly.
    """
    if card.precision == "int8" and not sums_int8_exactly():
        raise EngineError(
            f"{card.id} is an int8 model, and this processor has no VNNI (avx512_vnni, avx_vnni or amx_int8): "
            "sums would overflow and labels be wrong; take the fp32 export here"
        )
