"""How a foreign model is meant: its input, scaling, output and classes; each guess says its reason.

A preset names a label set under config/labels and the mapping that turns its ids into the driving classes.
"""

from __future__ import annotations

import ast
import colorsys
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, ModelError, SettingsError
from seg_perception.core.label_set import LabelClass, LabelMapping, LabelSet, load_label_mapping, load_label_set
from seg_perception.core.model_card import METADATA_KEY
from seg_perception.core.types import MAX_PIXELS, Size
from seg_perception.export.importing import AnswerLayout, ForeignModel, ImportRequest, Kind, Layout, TensorInfo

_IMAGE_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8}
_LABEL_TYPES = {
    *(onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.INT16, onnx.TensorProto.INT8),
    *(onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64),
}
_SCORE_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}


def choose_input(model: ForeignModel, request: ImportRequest) -> tuple[TensorInfo, Layout, str | None]:
    """The image input and its layout, and why where it was guessed.

    Raises:
        ModelError: no input fits, or several do; lists them.
    """
    fitting = [
        (tensor, layout)
        for tensor in model.inputs
        if tensor.type in _IMAGE_TYPES and len(tensor.shape) == 4 and (request.input in (None, tensor.name))
        for layout in Layout
        if tensor.shape[1 if layout is Layout.NCHW else 3] in (3, None) and request.layout in (None, layout)
    ]
    certain = [(t, layout) for t, layout in fitting if t.shape[1 if layout is Layout.NCHW else 3] == 3]
    fitting = certain or [(t, layout) for t, layout in fitting if layout is Layout.NCHW] or fitting
    if len({tensor.name for tensor, _ in fitting}) != 1 or len(model.inputs) != 1:
        listed = "; ".join(map(str, model.inputs)) or "none"
        raise ModelError(
            f"{model.path}: one input is needed that takes images, float, half or uint8 [N, 3, H, W] or [N, H, W, 3]; "
            f"inputs: {listed}" + ("" if len(model.inputs) == 1 else "; a model with several inputs cannot be imported")
        )
    tensor, layout = fitting[0]
    why = None if request.input and request.layout else f"input {tensor}: {layout.value}"
    return tensor, layout, why


_MOST_CLASSES = 65536


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Class names that the file's metadata holds (ultralytics: `names`; Hugging Face: `id2label`), or ().

    A table may leave ids out: these are called "class 7", so that no name moves to another id.
    """
    for key in ("names", "id2label", "classes", "CLASSES"):
        text = metadata.get(key, "")
        if not text or len(text) > 100_000:
            continue
        table: Any = None
        for parse in (json.loads, ast.literal_eval):
            try:
                table = parse(text)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        if isinstance(table, dict):
            try:
                named = {int(key): name for key, name in table.items()}
            except (TypeError, ValueError):
                continue
            if len(named) < len(table) or not 0 <= min(named, default=0) <= max(named, default=0) < _MOST_CLASSES:
                continue
            table = [named.get(index, f"class {index}") for index in range(max(named, default=-1) + 1)]
        if isinstance(table, (list, tuple)) and table and all(isinstance(name, str) for name in table):
            return tuple(table)
    return ()


PRESET_OF_CHANNELS = {19: "cityscapes19", 34: "cityscapes-ids", 11: "camvid11", 21: "voc21", 150: "ade150"}


def guess_classes(model: ForeignModel, channels: int | None, kind: Kind) -> tuple[str, str]:
    """A preset, or "names" for those in the file's metadata; and why.

    Raises:
        ModelError: nothing tells what the classes are, or it needs no import.
    """
    if METADATA_KEY in model.metadata:
        raise ModelError(
            f"{model.path}: is a model of this package already, with its model card: take it as it is "
            "(--classes imports it all the same, as another's)"
        )
    names = class_names(model.metadata)
    if kind is Kind.SIGMOID and len(names) == 1 and not _is_road(names[0]):
        raise ModelError(
            f"{model.path}: its one channel is {names[0]!r}, and not called road: if it is the road all the same, "
            "give --classes binary-road"
        )
    if names and (channels is None or len(names) == (2 if kind is Kind.SIGMOID else channels)):
        return "names", f"{len(names)} class names in the file's metadata"
    if kind is Kind.SIGMOID or channels == 2:
        return "binary-road", "one channel" if kind is Kind.SIGMOID else "2 classes: background, then road"
    if channels in PRESET_OF_CHANNELS:
        return PRESET_OF_CHANNELS[channels], f"{channels} classes"
    found = "an unknown number of" if channels is None else f"{channels}"
    raise ModelError(
        f"{model.path}: {found} classes, and nothing in the file names them: give --classes PRESET or FILE; "
        f"presets: {', '.join(sorted({*PRESET_OF_CHANNELS.values(), 'binary-road'}))}"
    )


def choose_output(
    model: ForeignModel, request: ImportRequest, answers: Mapping[str, NDArray[Any]], size: Size, batch: int
) -> tuple[TensorInfo, Kind, int | None, str | None]:
    """The output, what it holds, how many channels it has (None: ids), and why where it was guessed.

    Args:
        answers: what a run on `batch` images of `size` gave, by output name.

    Raises:
        ModelError: no output fits; lists them.
    """
    found = [
        (tensor, *read)
        for tensor in model.outputs
        if request.output in (None, tensor.name)
        and (read := _read_output(answers[tensor.name], request.kind, size, batch, _is_sigmoid(model, tensor.name)))
    ]
    listed = "; ".join(f"{t.name}: {t.type_name} {list(answers[t.name].shape)}" for t in model.outputs)
    if not found:
        asked = f" {request.output!r}" if request.output else ""
        asked += f" as {request.kind.value}" if request.kind else ""
        raise ModelError(
            f"{model.path}: no output{asked} can be the segmentation of a {size} image: scores [N, C, h, w] or "
            f"[N, h, w, C], ids [N, h, w] or [N, 1, h, w], or one channel are accepted; outputs: {listed}"
        )
    # several scores: auxiliary heads beside the main one, which has the finest grid, and comes first among equals
    # that are not called auxiliary
    order = {Kind.SCORES: 0, Kind.PROBABILITIES: 0, Kind.LABELS: 1, Kind.SIGMOID: 2}
    best = min(
        found,
        key=lambda row: (
            order[row[1]],
            -int(np.prod(answers[row[0].name].shape[1:])),
            any(word in row[0].name.lower() for word in ("aux", "extra")),
        ),
    )
    why = None
    if request.output is None or request.kind is None:
        why = f"output {best[0].name}: {best[1].value} {list(answers[best[0].name].shape)} for a {size} image"
        if len(found) > 1:
            why += f"; others that would fit: {', '.join(row[0].name for row in found if row is not best)}"
    return (*best, why)


def _is_sigmoid(model: ForeignModel, output: str) -> bool:
    """Whether a sigmoid makes an output: far from any road one may give 0 everywhere, and whole numbers are no ids."""
    makers = {name: node for node in model.model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in ("Cast", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Reshape"):
        node = makers.get(node.input[0])
    return node is not None and node.op_type in ("Sigmoid", "HardSigmoid")


def _read_output(
    values: NDArray[Any], kind: Kind | None, size: Size, batch: int, sigmoid: bool
) -> tuple[Kind, int | None] | None:
    """(kind, channels) of one output, or None where it cannot be one."""
    layout = AnswerLayout.of(values, size, batch)
    if layout is None:
        return None
    if values.dtype == np.bool_:
        return (Kind.LABELS, 2) if layout.channels == 1 and kind in (Kind.LABELS, None) else None
    if np.issubdtype(values.dtype, np.integer):
        return (Kind.LABELS, None) if layout.channels == 1 and kind in (Kind.LABELS, None) else None
    if layout.channels == 1:
        if kind is not Kind.SIGMOID and not sigmoid and np.array_equal(values, np.round(values)):
            return Kind.LABELS, None  # ids as floats
        return (Kind.SIGMOID, 1) if kind in (Kind.SIGMOID, None) else None
    if layout.channels > 254 or kind in (Kind.LABELS, Kind.SIGMOID):
        return None
    # a softmax, or a sigmoid for each class: scores would leave 0 to 1 somewhere
    bounded = values.min() >= -1e-3 and values.max() <= 1.0 + 1e-3
    return kind or (Kind.PROBABILITIES if bounded else Kind.SCORES), layout.channels


def probe_size(tensor: TensorInfo, layout: Layout, request: ImportRequest, default: Size) -> tuple[Size, Size | None]:
    """The size to try the model at, and its one size where it has one.

    Raises:
        InputError: --size differs from the model's one size, or is too large.
        ModelError: only one of height and width is fixed, or the fixed size is absurd.
    """
    height, width = tensor.shape[2:] if layout is Layout.NCHW else tensor.shape[1:3]
    if (height is None) != (width is None):
        if request.size is None:
            raise ModelError(f"input {tensor} has one open and one fixed side: say both with --size WxH")
        height, width = height or request.size.height, width or request.size.width
    if height is not None and width is not None:
        if height * width > MAX_PIXELS or height * width < 1024:
            raise ModelError(f"input {tensor}: {width}x{height} is not accepted; 1024 to {MAX_PIXELS} pixels are")
        fixed = Size(width, height)
        if request.size not in (None, fixed):
            raise InputError(f"--size {request.size} does not fit: the model takes {fixed} only")
        return fixed, fixed
    return request.size or default, request.size


BACKGROUND = "background"
PRESETS = {  # name -> label set, mapping of its ids to the driving classes
    "cityscapes19": ("cityscapes19", "cityscapes_train_ids"),
    "cityscapes-ids": ("cityscapes_ids", "cityscapes"),
    "camvid11": ("camvid11", "camvid"),
    "voc21": ("voc21", "voc21_to_driving"),
    "ade150": ("ade150", "ade150_to_driving"),
    "binary-road": ("background_and_road", "binary_road"),
}
_SUFFIXES = (".yaml", ".yml")
_ROAD_NAMES = frozenset({"road", "drivable", "drivable area", "drivable_area", "street", "lane"})


@dataclass(frozen=True, slots=True)
class ImportedClasses:
    """The model's own classes, and what becomes of them.

    Attributes:
        source: names of the model's channels or ids, in order.
        label_set: of the imported graph.
        targets: for each source class its id in `label_set`; identity where nothing is mapped.
        notes: a line for each thing that was decided here.
    """

    source: tuple[str, ...]
    label_set: LabelSet
    targets: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def mapped(self) -> bool:
        return self.targets != tuple(range(len(self.source)))

    def matrix(self) -> NDArray[np.float32]:
        """What sums probabilities: 0 and 1, float32 [classes of the label set, source classes]."""
        table = np.zeros((len(self.label_set), len(self.source)), np.float32)
        table[list(self.targets), range(len(self.source))] = 1.0
        return table


def imported_classes(classes: str, names: tuple[str, ...], to: str | None) -> ImportedClasses:
    """Find the classes of a model.

    Args:
        classes: a preset's name, "names" (those that the model's metadata holds), or a YAML file: a
            label set, or a mapping of the model's ids.
        names: class names in the model's metadata.
        to: a label set that the classes shall become; None keeps them.

    Raises:
        InputError: no such preset.
        ModelError: `to` is asked for and nothing says which class becomes which; names them.
        SettingsError: a file is wrong.
    """
    if classes in PRESETS:
        source, mapping_name = load_label_set(PRESETS[classes][0]), PRESETS[classes][1]
        return _mapped(source, load_label_mapping(mapping_name), to) if to else _kept(source)
    if classes == "names":
        source = LabelSet("imported", tuple(LabelClass(i, n, _color(i), _is_road(n)) for i, n in enumerate(names)))
        return _mapped_by_name(source, load_label_set(to)) if to else _kept(source)
    if Path(classes).suffix not in _SUFFIXES:
        known = ", ".join(PRESETS)
        raise InputError(f"--classes {classes!r} is not accepted: one of {known}, names, or a .yaml file is")
    return _from_file(classes, to)


def _from_file(classes: str, to: str | None) -> ImportedClasses:
    try:
        mapping = load_label_mapping(classes)
    except SettingsError as no_mapping:
        try:
            source = load_label_set(classes)
        except SettingsError as no_set:
            raise SettingsError(
                f"{classes} is neither a mapping ({no_mapping}) nor a label set ({no_set}); see config/labels"
            ) from no_set
        return _mapped_by_name(source, load_label_set(to)) if to else _kept(source)
    if to is not None and load_label_set(to).names != mapping.target.names:
        raise InputError(f"{classes} maps to {mapping.target.name}, not to {to}: leave --to out or name that one")
    values = sorted(value for value in mapping.classes_of_values if value != 255)
    if values != list(range(len(values))):
        raise InputError(f"{classes}: values must be 0 to {len(values) - 1} without gaps to name a model's classes")
    source = LabelSet(mapping.name, tuple(LabelClass(i, f"class {i}", _color(i)) for i in values))
    return _mapped(source, mapping, mapping.target.name)


def _kept(source: LabelSet) -> ImportedClasses:
    notes = () if source.drivable_ids else (f"no class of {source.name} is drivable: the drivable mask stays empty",)
    return ImportedClasses(source.names, source, tuple(range(len(source))), notes)


def _mapped(source: LabelSet, mapping: LabelMapping, to: str) -> ImportedClasses:
    target = load_label_set(to)
    if target.names != mapping.target.names:
        raise InputError(f"--to {to} is not accepted: the classes of {source.name} map to {mapping.target.name}")
    known = {i: mapping.classes_of_values.get(i, "ignore") for i in range(len(source))}
    return _filled(source, target, [None if name == "ignore" else name for name in known.values()])


def _mapped_by_name(source: LabelSet, target: LabelSet) -> ImportedClasses:
    """Classes of equal name; all others become background, and are named."""
    simplified = {_simple(name): name for name in target.names}
    found = [simplified.get(_simple(name)) or (simplified.get("road") if c.drivable else None)
             for name, c in zip(source.names, source.classes)]  # fmt: skip
    if not any(found):
        raise ModelError(
            f"none of the model's classes ({', '.join(source.names[:20])}) is called like one of {target.name}: "
            f"write a mapping of its ids (docs/your_model.md) and give it as --classes FILE"
        )
    return _filled(source, target, found)


def _filled(source: LabelSet, target: LabelSet, found: list[str | None]) -> ImportedClasses:
    missing = [name for name, to in zip(source.names, found) if to is None]
    if missing and BACKGROUND not in target.names:
        raise ModelError(f"{', '.join(missing)}: no class of {target.name} stands for them; write a mapping")
    notes = (f"background in {target.name}, for want of another class: {', '.join(missing)}",) if missing else ()
    return ImportedClasses(source.names, target, tuple(target.id_of(name or BACKGROUND) for name in found), notes)


def _simple(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()


def _is_road(name: str) -> bool:
    return _simple(name) in _ROAD_NAMES


def _color(index: int) -> tuple[int, int, int]:
    """A color for a class without one: hues by the golden angle, so that neighbors differ."""
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.65, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
