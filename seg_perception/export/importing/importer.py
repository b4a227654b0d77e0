"""Somebody else's segmentation ONNX becomes a deployed graph of ours: bytes in, bytes out, card inside.

The model is left as it is; pixels are brought to it and its answer is brought to labels and confidence:

    image uint8 [N, H, W, 3] -> float -> (color order, / scale, - mean, / std, layout) -> the model
    -> scores, enlarged to H x W -> softmax -> (classes summed) -> labels, confidence uint8 [N, H, W]

Needs onnx and onnxruntime, no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.types import Precision, Size
from seg_perception.engines.graph.model_file import check_model
from seg_perception.export.importing import (
    AnswerLayout,
    Color,
    Decision,
    ForeignModel,
    ImportRequest,
    Kind,
    Layout,
    OriginalModel,
    count_operators,
    prepare_pixels,
    probe_image,
)
from seg_perception.export.importing.guesses import (
    ImportedClasses,
    choose_input,
    choose_output,
    class_names,
    guess_classes,
    imported_classes,
    probe_size,
)
from seg_perception.export.importing.scaling import guess_scaling
from seg_perception.export.importing.wrap import wrap

DEFAULT_SIZE = Size(512, 384)
_MULTIPLES = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made.

    Attributes:
        decision: how the model was taken.
        classes: its classes and what became of them.
        layout: of the model's answer.
    """

    model: onnx.ModelProto
    card: ModelCard
    decision: Decision
    classes: ImportedClasses
    layout: AnswerLayout


def import_model(original: OriginalModel, request: ImportRequest, name: str | None = None) -> Imported:
    """Make the deployed graph.

    Args:
        original: the foreign model, opened.
        request: what the user says; the rest is guessed, see `Imported.decision.reasons`.
        name: of the model card; None: the file's name.

    Raises:
        ModelError: it is no segmentation that can be read, or does not run.
        InputError, SettingsError: a wrong option, preset or file.
    """
    foreign = original.foreign
    decision = decide(foreign, request, original)
    classes = imported_classes(decision.classes, class_names(foreign.metadata), decision.to)
    size, multiple = _size_and_multiple(decision, original)
    answer = original.run(decision.input.name, prepare_pixels(probe_image(size, decision.batch or 1), decision))[
        decision.output.name
    ]
    layout = AnswerLayout.of(answer, size, decision.batch or 1)
    if layout is None:
        raise ModelError(f"{foreign.path}: its answer {list(answer.shape)} to a {size} image is no grid of its pixels")
    _demand_matching_classes(foreign, decision, classes, layout, answer)
    needs_more = _needs_more(decision.kind, layout.first(answer))
    model = wrap(foreign, decision, classes, layout, size if decision.input_size else None, needs_more)
    card = ModelCard(
        name=name or foreign.path.stem,
        version="imported",
        network=f"imported from {foreign.path.name}",
        label_set=classes.label_set,
        input_size=size,
        size_multiple=multiple,
        precision=_precision(foreign, decision),
        weights_sha256=hashlib.sha256(foreign.content).hexdigest(),
        data_license="not known: that of the imported model",
        run={"import": decision.command(foreign.path, foreign.path.with_suffix(".imported.onnx"))},
        limits=("imported: what it was trained on, and where it should not be trusted, its makers know",),
        confidence="none" if decision.kind is Kind.LABELS else "probability",
    )
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError and TypeError
        raise ModelError(f"{foreign.path}: what it becomes is no valid ONNX graph: {error}") from error
    check_model(model, card.id)
    return Imported(model, card, decision, classes, layout)


def _needs_more(kind: Kind, answer: NDArray[np.float64]) -> bool:
    """Whether one channel lacks its sigmoid, or probabilities their sum of 1 (a sigmoid for each class has none)."""
    if kind is Kind.SIGMOID:
        return not (answer.min() >= 0.0 and answer.max() <= 1.0)
    return kind is Kind.PROBABILITIES and bool(np.abs(answer.sum(axis=0) - 1.0).max() > 0.02)


def _precision(foreign: ForeignModel, decision: Decision) -> Precision:
    if count_operators(foreign.model)["QuantizeLinear"]:
        return Precision.INT8
    return Precision.FP16 if decision.input.type == TensorProto.FLOAT16 else Precision.FP32


def _demand_matching_classes(
    foreign: ForeignModel, decision: Decision, classes: ImportedClasses, layout: AnswerLayout, answer: NDArray[Any]
) -> None:
    count, where = len(classes.source), f"{foreign.path}: output {decision.output.name}"
    if decision.kind is Kind.LABELS:
        lowest, highest = int(answer.min()), int(answer.max())
        if lowest < 0 or highest >= count:
            raise InputError(
                f"{where} holds ids from {lowest} to {highest}, and {decision.classes} has {count} classes: give "
                "--classes FILE, which names every id from 0 on; one that means nothing, such as 255, must become a "
                "class inside the model"
            )
    elif count != (channels := 2 if decision.kind is Kind.SIGMOID else layout.channels):
        raise InputError(f"{where} has {channels} classes, and --classes {decision.classes} has {count}")


def _size_and_multiple(decision: Decision, original: OriginalModel) -> tuple[Size, int]:
    """The size for the card, and the multiple that other sizes must have: found by trying."""
    if decision.input_size is not None:
        return decision.input_size, 1
    for multiple in _MULTIPLES:
        size = Size(multiple * max(5, 320 // multiple), multiple * max(3, 192 // multiple))
        strides = {_stride_at(tried, decision, original) for tried in (size, Size(size.width + multiple, size.height))}
        if len(strides) == 1 and None not in strides:
            fitting = (round(DEFAULT_SIZE.width / multiple), round(DEFAULT_SIZE.height / multiple))
            return Size(fitting[0] * multiple, fitting[1] * multiple), multiple
    raise ModelError(
        f"the model does not take every size in multiples of {' or '.join(map(str, _MULTIPLES))}: give --size WxH"
    )


def _stride_at(size: Size, decision: Decision, original: OriginalModel) -> tuple[float, float] | None:
    tensor = prepare_pixels(probe_image(size, decision.batch or 1), decision)
    try:
        layout = AnswerLayout.of(
            original.run(decision.input.name, tensor)[decision.output.name], size, decision.batch or 1
        )
    except ModelError:
        return None
    return None if layout is None else layout.stride


def decide(foreign: ForeignModel, request: ImportRequest, original: OriginalModel) -> Decision:
    """Fill what the request leaves open; the model is run once to see what comes out.

    Raises:
        ModelError, InputError: something cannot be guessed; says what to give.
    """
    task = foreign.metadata.get("task", "semantic")
    if "ultralytics" in foreign.metadata.get("author", "").lower() and task != "semantic":
        raise ModelError(
            f"{foreign.path}: an ultralytics model of the task {task!r} finds objects; it gives no class to each "
            "pixel, as those of the task 'semantic' do"
        )
    tensor, layout, why_input = choose_input(foreign, request)
    size, fixed = probe_size(tensor, layout, request, DEFAULT_SIZE)
    scale, mean, std, why_scaling = guess_scaling(foreign, tensor, layout, request)
    color = request.color or Color.RGB
    draft = Decision(
        tensor, layout, color, scale, _three(mean), _three(std), foreign.outputs[0], Kind.SCORES, "", None, fixed,
        tensor.shape[0],
    )  # fmt: skip
    try:
        answers = original.run(tensor.name, prepare_pixels(probe_image(size, tensor.shape[0] or 1), draft))
    except ModelError as error:
        if request.layout is None and 3 not in tensor.shape:
            other = Layout.NHWC if layout is Layout.NCHW else Layout.NCHW
            raise ModelError(
                f"{error}\n  nothing in the file says where its channels are: try --layout {other.value}"
            ) from error
        raise
    output, kind, channels, why_output = choose_output(foreign, request, answers, size, tensor.shape[0] or 1)
    batch = tensor.shape[0]
    if batch is None and not _takes_batches(original, draft, output.name, size):
        batch = 1
    count = channels if channels is not None else arg_max_channels(foreign, output.name)
    classes, why_classes = (request.classes, None) if request.classes else guess_classes(foreign, count, kind)
    reasons = [why for why in (why_input, why_scaling, why_output, why_classes) if why]
    if request.color is None:
        reasons.append("color: rgb, as nearly every published network; a model trained on OpenCV images wants bgr")
    return Decision(
        tensor, layout, color, scale, _three(mean), _three(std), output, kind, str(classes), request.to, fixed,
        batch, tuple(reasons),
    )  # fmt: skip


def _takes_batches(original: OriginalModel, draft: Decision, output: str, size: Size) -> bool:
    """Whether two images give two answers: some exports drop the first axis, or fix it inside."""
    try:
        answer = original.run(draft.input.name, prepare_pixels(probe_image(size, 2), draft))[output]
    except ModelError:
        return False
    return answer.ndim >= 3 and answer.shape[0] == 2


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, *rest = values
    return (first, first, first) if not rest else (first, rest[0], rest[1])


def arg_max_channels(foreign: ForeignModel, output: str) -> int | None:
    """How many classes the ArgMax behind an output chooses among; None where that cannot be seen."""
    makers = {name: node for node in foreign.model.graph.node for name in node.output}
    current = output
    while (node := makers.get(current)) is not None and node.op_type in ("Cast", "Squeeze", "Unsqueeze", "Identity"):
        current = node.input[0]
    if node is None or node.op_type != "ArgMax":
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    inferred = onnx.shape_inference.infer_shapes(foreign.model)
    for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        if value.name == node.input[0]:
            dims = value.type.tensor_type.shape.dim
            return int(dims[axis].dim_value) or None if -len(dims) <= axis < len(dims) else None
    return None
