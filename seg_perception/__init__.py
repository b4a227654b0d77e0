"""Semantic segmentation for driving: camera images in, labels, confidence and drivable mask out."""

from __future__ import annotations

import os
import sys
import warnings

# ONNX Runtime's wheels report their use to a server (1DS telemetry) unless this is set before they are imported;
# its own disable_telemetry_events() comes too late for that. Here, because every path leads through here.
# OpenVINO's reports are switched off where it is imported: engines/openvino.py.
_ORT_TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
if _ORT_TELEMETRY_OFF not in os.environ:
    if "onnxruntime" in sys.modules:
        warnings.warn(
            "onnxruntime was imported before seg_perception, so its telemetry could not be switched off: "
            f"import seg_perception first, or start the program with {_ORT_TELEMETRY_OFF}=1",
            RuntimeWarning,
            stacklevel=2,
        )
    os.environ[_ORT_TELEMETRY_OFF] = "1"
