"""An fp32 graph becomes an int8 graph with explicit quantize/dequantize nodes.

ONNX Runtime's static quantizer places the nodes and takes the ranges from calibration images:
symmetric int8, weights per output channel, pairs only at the inputs of convolutions (what TensorRT
fuses). Convolutions whose quantization changes labels most are left in float, as many as the wanted
label agreement asks for; TensorRT engines run those in half.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from seg_perception.core.errors import ModelError
from seg_perception.core.types import LabelImage, Precision, RgbImage
from seg_perception.engines.base import INPUT_NAME
from seg_perception.engines.graph import card_of, write_card
from seg_perception.engines.graph.model_file import check_model
from seg_perception.engines.onnxruntime import in_memory

log = logging.getLogger(__name__)

QUANTIZED_OPERATOR = "Conv"


@dataclass(frozen=True, slots=True)
class QuantizationSettings:
    """How far to go.

    Attributes:
        target_agreement: share of pixels whose label must equal fp32's on the judging images.
        max_float_convolutions: give up, with an error, when this many are float and it is still missed.
    """

    target_agreement: float = 0.99
    max_float_convolutions: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.target_agreement <= 1.0:
            raise ModelError(f"target agreement {self.target_agreement} is not in 0 to 1")


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """The int8 graph and what was measured on the way."""

    model: onnx.ModelProto
    convolutions: int
    float_convolutions: tuple[str, ...]  # names of those left in float, most sensitive first
    agreement: float  # with fp32, on the judging images
    agreement_all_int8: float


Progress = Callable[[str, int, int], None]  # phase, done, total


def quantize(
    model: onnx.ModelProto,
    calibration: Sequence[RgbImage],
    judging: Sequence[RgbImage],
    settings: QuantizationSettings | None = None,
    progress: Progress | None = None,
) -> QuantizedGraph:
    """Make the int8 graph.

    Args:
        model: an fp32 graph with its model card; it is not changed.
        calibration: images at one network size, uint8 [H, W, 3], for the ranges; some tens of the
            scenes that the model will see.
        judging: other images at that size, for the choice of float layers.
        settings: how far to go; None: 99 % of labels equal.
        progress: called with a phase, steps done and steps in all.

    Raises:
        ModelError: not an fp32 graph, no images, or the wanted agreement cannot be reached.
    """
    settings = settings or QuantizationSettings()
    card = card_of(model)
    if card.precision is not Precision.FP32:
        raise ModelError(f"{card.id} is {card.precision}; only an fp32 graph can be quantized")
    if not calibration or not judging:
        raise ModelError("quantization needs at least one calibration image and one to judge the result by")
    quantizer = _Quantizer(model, calibration, progress)
    reference = _labels(model, judging)
    everything = quantizer.quantize(excluded=())
    agreement_all = _agreement(everything, judging, reference)
    log.info("all %d convolutions int8: %.3f %% of labels agree", len(quantizer.names), agreement_all * 100)
    excluded: Sequence[str] = ()
    if agreement_all >= settings.target_agreement:
        chosen, agreement = everything, agreement_all
    else:
        ranking = _rank_by_harm(quantizer, judging, reference, progress)
        chosen, excluded, agreement = _leave_worst_in_float(quantizer, ranking, judging, reference, settings, progress)
    write_card(chosen, dataclasses.replace(card, precision=Precision.INT8))
    onnx.checker.check_model(chosen, full_check=True)
    check_model(chosen, card.id)
    return QuantizedGraph(chosen, len(quantizer.names), tuple(excluded), agreement, agreement_all)


class _Quantizer:
    """Calibrates once; then quantizes with any choice of convolutions."""

    def __init__(self, model: onnx.ModelProto, images: Sequence[RgbImage], progress: Progress | None) -> None:
        self._model = onnx.shape_inference.infer_shapes(model)
        self.names = tuple(node.name for node in model.graph.node if node.op_type == QUANTIZED_OPERATOR)
        self._ranges = _tensor_ranges(self._model, images, progress)

    def quantize(self, excluded: Sequence[str]) -> onnx.ModelProto:
        """Every convolution but the excluded ones."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=list(excluded),
            op_types_to_quantize=[QUANTIZED_OPERATOR],
            extra_options={
                "ActivationSymmetric": True,  # TensorRT knows no zero points
                "WeightSymmetric": True,
                "QuantizeBias": False,  # TensorRT refuses int32 biases
                "OpTypesToExcludeOutputQuantization": [QUANTIZED_OPERATOR],  # keeps conv + activation fusable
            },
        )
        quantizer.quantize_model()
        result: onnx.ModelProto = quantizer.model.model
        _restore(result, self._model)
        return result


def _tensor_ranges(model: onnx.ModelProto, images: Sequence[RgbImage], progress: Progress | None) -> Any:
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[tuple[int, RgbImage]] = iter(enumerate(images, start=1))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            index, image = next(self._images, (0, None))
            if image is None:
                return None
            if progress is not None:
                progress("calibrating", index, len(images))
            return {INPUT_NAME: image[np.newaxis]}

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            [QUANTIZED_OPERATOR],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"symmetric": True},
        )
        calibrator.collect_data(Reader())
        return calibrator.compute_data()


def _restore(quantized: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Undo what the quantizer leaves behind: unsorted nodes, stale shapes, its own opset and name."""
    graph = quantized.graph
    known = {tensor.name for tensor in graph.initializer} | {tensor.name for tensor in graph.input} | {""}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise ModelError("the quantized graph has a cycle")
        ordered += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    del quantized.opset_import[:]
    quantized.opset_import.extend(original.opset_import)
    quantized.producer_name, quantized.producer_version = original.producer_name, original.producer_version
    quantized.ir_version = original.ir_version


def _labels(model: onnx.ModelProto, images: Sequence[RgbImage]) -> list[LabelImage]:
    answer = in_memory(model)
    return [answer(image[np.newaxis])[0] for image in images]


def _agreement(model: onnx.ModelProto, images: Sequence[RgbImage], reference: Sequence[LabelImage]) -> float:
    answers = _labels(model, images)
    return float(np.mean([np.mean(a == b) for a, b in zip(answers, reference, strict=True)]))


def _rank_by_harm(
    quantizer: _Quantizer, judging: Sequence[RgbImage], reference: Sequence[LabelImage], progress: Progress | None
) -> list[str]:
    """Convolution names, most harmful first: each is quantized alone and judged by the labels it changes."""
    harm: dict[str, float] = {}
    for index, name in enumerate(quantizer.names, start=1):
        alone = quantizer.quantize(excluded=[other for other in quantizer.names if other != name])
        harm[name] = 1.0 - _agreement(alone, judging, reference)
        if progress is not None:
            progress("ranking layers", index, len(quantizer.names))
    return sorted(harm, key=lambda name: -harm[name])


def _leave_worst_in_float(
    quantizer: _Quantizer,
    ranking: Sequence[str],
    judging: Sequence[RgbImage],
    reference: Sequence[LabelImage],
    settings: QuantizationSettings,
    progress: Progress | None,
) -> tuple[onnx.ModelProto, Sequence[str], float]:
    """Leave 1, 2, 4, 6, ... of the most harmful in float until the wanted agreement is reached."""
    limit = min(settings.max_float_convolutions, len(ranking))
    best = 0.0
    for count in [1, *range(2, limit + 1, 2)]:
        model = quantizer.quantize(excluded=ranking[:count])
        agreement = _agreement(model, judging, reference)
        best = max(best, agreement)
        log.info("%d convolutions in float: %.3f %% of labels agree", count, agreement * 100)
        if progress is not None:
            progress("leaving layers in float", count, limit)
        if agreement >= settings.target_agreement:
            return model, ranking[:count], agreement
    raise ModelError(
        f"with {limit} of {len(ranking)} convolutions in float, {best:.2%} of labels agree with fp32; "
        f"{settings.target_agreement:.2%} were asked for: give more calibration images, ask for less, or use fp16"
    )
