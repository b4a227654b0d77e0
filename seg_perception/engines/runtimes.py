"""The names of the runtimes. Imports nothing, so that `seg-perception --help` can list them at once."""

from __future__ import annotations

from typing import Final

RUNTIMES: Final = ("auto", "onnxruntime", "openvino", "openvino_bf16", "tensorrt", "tensorrt_rtx")
"""What `open_engine` accepts; "auto" chooses by what the machine has, and never takes OpenVINO."""
