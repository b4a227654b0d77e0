"""Which pixels a foreign model takes: 0 to 255, 0 to 1, -1 to 1, or with a mean and a std."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from seg_perception.core.errors import InputError
from seg_perception.export.importing import ForeignModel, ImportRequest, Layout, TensorInfo

Numbers = tuple[float, ...]

_ARITHMETIC = frozenset({"Sub", "Div", "Mul", "Add", "BatchNormalization"})
_MOVES = frozenset({"Cast", "Transpose", "Identity"})


def guess_scaling(
    model: ForeignModel, tensor: TensorInfo, layout: Layout, request: ImportRequest
) -> tuple[float, Numbers, Numbers, str | None]:
    """Find scale, mean and std, and say why where they were guessed.

    Ultralytics divides by 255 only; a graph that begins with arithmetic on its input tells by that what it takes, such
    as a Rescaling layer of Keras; TAO's names mean x / 127.5 - 1; mmdeploy's and other float inputs are ImageNet's
    statistics.

    Raises:
        InputError: a scaling for an input of bytes.
    """
    stated = any(value is not None for value in (request.scale, request.mean, request.std))
    if tensor.type == onnx.TensorProto.UINT8:
        if not _is_none(request):
            raise InputError(
                f"input {tensor} takes bytes, which cannot be scaled: the model normalizes by itself; leave "
                "--scale, --mean and --std out"
            )
        return 1.0, (0.0,), (1.0,), None if stated else "uint8 input: the model normalizes by itself"
    if stated:
        return _completed(request)
    if "ultralytics" in model.metadata.get("author", "").lower():
        return 255.0, (0.0,), (1.0,), "ultralytics in the metadata: pixels divided by 255"
    own = first_arithmetic(model, tensor, layout)
    if own is not None and (told := _of_arithmetic(*own)) is not None:
        return told
    if tensor.name.startswith("input_1"):
        return 127.5, (1.0,), (1.0,), "an input name of TAO's: pixels / 127.5 - 1"
    return (
        *(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "float input: ImageNet's mean and std, of pixels of 0 to 1",
    )


def _is_none(request: ImportRequest) -> bool:
    """Whether the pixels stay as they are."""
    return request.scale in (None, 1.0) and not any(request.mean or ()) and set(request.std or (1.0,)) == {1.0}


def _completed(request: ImportRequest) -> tuple[float, Numbers, Numbers, str | None]:
    """What is stated, and the rest so that it fits."""
    mean, std = request.mean or (0.0,), request.std or (1.0,)
    if request.scale is None:
        fractions = max(map(abs, (*mean, *std))) <= 1.0
        scale, range_ = (255.0, "0 to 1") if fractions else (1.0, "0 to 255")
        return scale, mean, std, f"--mean and --std as given are of pixels of {range_}: scale {scale:g}"
    missing = [f"--{name} {value:g}" for name, given, value in (("mean", request.mean, 0), ("std", request.std, 1))
               if given is None]  # fmt: skip
    return request.scale, mean, std, f"{' and '.join(missing)}, as nothing else is given" if missing else None


def _of_arithmetic(offset: float, gain: float) -> tuple[float, Numbers, Numbers, str] | None:
    """The pixels for which `gain * pixel + offset` is as networks like it: about 0, in small numbers; None: unclear."""
    begins = "the graph begins with arithmetic on its input: it takes pixels of"
    middle = -offset / gain  # the pixel that becomes 0
    if abs(middle) < 0.3 and 0.3 < abs(gain) < 1.6:
        return None  # a normalization of what is normalized before, such as a first BatchNormalization
    if middle < -0.1:
        return 127.5, (1.0,), (1.0,), f"{begins} -1 to 1"
    if middle > 1.5 or (middle < 0.01 and abs(gain) < 0.1):
        return 1.0, (0.0,), (1.0,), f"{begins} 0 to 255"
    return 255.0, (0.0,), (1.0,), f"{begins} 0 to 1"


def first_arithmetic(model: ForeignModel, tensor: TensorInfo, layout: Layout) -> tuple[float, float] | None:
    """Offset and gain, on average of the channels, of what happens to the input first; None: no such arithmetic."""
    graph = model.model.graph
    made = {output: node for node in graph.node if node.op_type == "Constant" for output in node.output}
    constants = {t.name for t in graph.initializer} | set(made)
    chain: list[onnx.NodeProto] = []
    current = tensor.name
    while True:
        users = [node for node in graph.node if current in node.input]
        if len(users) != 1 or users[0].op_type not in _ARITHMETIC | _MOVES:
            break
        if not all(name in constants for name in users[0].input if name != current):
            break
        chain.append(users[0])
        current = users[0].output[0]
    while chain and chain[-1].op_type in _MOVES:
        chain.pop()
    if not chain:
        return None
    used = {name for node in chain for name in node.input}
    begun = helper.make_graph(
        [*(made[name] for name in sorted(used & made.keys())), *chain],
        "begun",
        [value for value in graph.input if value.name == tensor.name],
        [helper.make_empty_tensor_value_info(chain[-1].output[0])],
        [t for t in graph.initializer if t.name in used],
    )
    try:
        run = ReferenceEvaluator(helper.make_model(begun, opset_imports=list(model.model.opset_import)))
        answers = [run.run(None, {tensor.name: _image(tensor, layout, value)}) for value in (0, 1)]
        zero, one = (np.asarray(next(iter(answer)), np.float64) for answer in answers)
    except Exception:  # noqa: BLE001  the evaluator raises what its operators raise
        return None
    gain = float((one - zero).mean())
    return (float(zero.mean()), gain) if np.isfinite(gain) and gain and np.isfinite(zero).all() else None


def _image(tensor: TensorInfo, layout: Layout, value: float) -> NDArray[np.floating]:
    """An image of one value, as small as the input allows."""
    sides = [side or 8 for side in tensor.shape]
    sides[1 if layout is Layout.NCHW else 3] = 3
    sides[0] = tensor.shape[0] or 1
    return np.full(sides, value, np.float16 if tensor.type == onnx.TensorProto.FLOAT16 else np.float32)
