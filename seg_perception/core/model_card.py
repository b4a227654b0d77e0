"""The model card: what a model is, travelling inside the ONNX file as one metadata property."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from seg_perception.core.errors import InputError, ModelError, SegPerceptionError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.resizing import MOST_PIXELS
from seg_perception.core.settings import FORMERLY, from_mapping
from seg_perception.core.types import CameraEncoding, Precision, Size

METADATA_KEY = "seg_perception.model_card"
FORMAT = 1
MAX_MULTIPLE = 1024


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything a user of the graph must know; nothing else repeats it.

    Attributes:
        name: for people, for example "driving".
        version: of the weights.
        network: registry name of the network.
        label_set: classes with ids, colors (RGB) and which are drivable.
        input_size: the size the network was made for; the pixel budget of other camera shapes.
        size_multiple: width and height of the graph's input must be multiples of this.
        precision: of the graph.
        weights_sha256: hex digest of the checkpoint's weights (safetensors bytes).
        data: one line for each dataset in training.
        data_license: what the data allows.
        run: how it was trained: settings, steps, seed.
        scores: evaluation name -> metric -> value in percent.
        limits: where it should not be trusted.
        confidence: "probability"; or "none" of an imported model that answers ids only: then the confidence is
            255 everywhere, and no threshold on it means anything.
        camera_encoding: of the images that the graph takes; other than RGB only where it was made for one camera.
    """

    name: str
    version: str
    network: str
    label_set: LabelSet
    input_size: Size
    size_multiple: int
    precision: Precision
    weights_sha256: str
    data: tuple[str, ...] = ()
    data_license: str = field(default="", metadata={FORMERLY: "data_licence"})
    run: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    confidence: str = "probability"
    camera_encoding: CameraEncoding = CameraEncoding.RGB

    def __post_init__(self) -> None:
        if not 1 <= self.size_multiple <= MAX_MULTIPLE:
            raise ModelError(f"model card: size_multiple {self.size_multiple} is not in 1 to {MAX_MULTIPLE}")
        if self.input_size.width * self.input_size.height > MOST_PIXELS:
            raise ModelError(f"model card: input_size {self.input_size} has more than {MOST_PIXELS} pixels")
        try:
            object.__setattr__(self, "precision", Precision.parse(self.precision))
            object.__setattr__(self, "camera_encoding", CameraEncoding.parse(self.camera_encoding))
        except InputError as error:
            raise ModelError(f"model card: {error}") from error
        if self.confidence not in ("probability", "none"):
            raise ModelError(f"model card: confidence {self.confidence!r} is not one of probability, none")

    @property
    def has_confidence(self) -> bool:
        """Whether the confidence means anything."""
        return self.confidence != "none"

    @property
    def id(self) -> str:
        """Name, version, precision and the first digits of the weights' hash."""
        return f"{self.name}-{self.version}-{self.precision}-{self.weights_sha256[:8]}"

    def to_json(self) -> str:
        document = asdict(self) | {"format": FORMAT}
        return json.dumps(document, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Parse a card.

        Raises:
            ModelError: not JSON, a format this version does not read, or missing, unknown or wrong
                fields (types are checked: "false" is not a truth value).
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"the model card is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ModelError(f"the model card must be a JSON object, got {type(document).__name__}")
        found = document.pop("format", None)
        if found != FORMAT:
            raise ModelError(f"model card format {found!r} is not supported; this version reads format {FORMAT}")
        try:
            return from_mapping(cls, document, "the model card")
        except SegPerceptionError as error:
            raise ModelError(str(error)) from error
