"""What to build, as asked for."""

from __future__ import annotations

from dataclasses import dataclass

from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.types import CameraEncoding, Precision, Size


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What to build; every field is part of the engine's cache key.

    Attributes:
        precision: None takes fp16, or int8 from an int8 graph.
        batch: the largest batch; smaller ones run, too.
        size: the only network input size; None takes any shape with about the model card's pixel count,
            so that every camera keeps its shape (see `plan.input_sizes`).
        camera_size: images come at this size and are resized inside the engine, to `size` where given.
        camera_encoding: of images that come at `camera_size`; they are decoded inside the engine.
        workspace_mib: scratch memory the builder may plan with; None leaves it to TensorRT.
        optimization_level: 0 (builds fastest) to 5; None is TensorRT's own default.
        dla_core: run what can on this DLA core, the rest on the GPU; None: all on the GPU.
        hardware_compatible: also runs on other GPUs from the Ampere generation on.
        target: GPU to build for that is not in this machine, such as "sm89" (TensorRT-RTX only).
    """

    precision: Precision | None = None
    batch: int = 1
    size: Size | None = None
    camera_size: Size | None = None
    camera_encoding: CameraEncoding = CameraEncoding.RGB
    workspace_mib: int | None = None
    optimization_level: int | None = None
    dla_core: int | None = None
    hardware_compatible: bool = False
    target: str | None = None

    def __post_init__(self) -> None:
        faults: list[str] = []
        try:
            if self.precision is not None:
                object.__setattr__(self, "precision", Precision.parse(self.precision))
        except InputError as error:
            faults.append(str(error))
        if self.camera_encoding is not CameraEncoding.RGB and self.camera_size is None:
            faults.append(f"camera encoding {self.camera_encoding} needs a camera size")
        if self.batch < 1:
            faults.append(f"batch {self.batch} must be at least 1")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            faults.append(f"workspace {self.workspace_mib} MiB must be at least 1")
        if self.dla_core is not None and self.dla_core < 0:
            faults.append(f"DLA core {self.dla_core} must be 0 or more")
        if faults:
            raise EngineError("engine settings: " + "; ".join(faults))
