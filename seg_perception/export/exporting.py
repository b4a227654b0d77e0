"""From a checkpoint to one ONNX file with its model card inside, checked to answer as torch does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, ModelError, SettingsError
from seg_perception.core.files import make_room_for, write_atomically
from seg_perception.core.image_file import IMAGE_SUFFIXES
from seg_perception.core.resizing import check_multiple, resize_image
from seg_perception.core.types import CameraEncoding, Precision, RgbImage, Size
from seg_perception.datasets.base import files_in, read_rgb
from seg_perception.engines.graph import card_of, pin_shapes
from seg_perception.engines.graph.camera import for_camera
from seg_perception.engines.graph.half import to_half
from seg_perception.engines.onnxruntime import Answerer, in_memory
from seg_perception.evaluation import of_labels_alone
from seg_perception.evaluation.files import read_evaluations
from seg_perception.export.quantize import QuantizationSettings, QuantizedGraph, quantize
from seg_perception.export.to_onnx import DeployedGraph, build_onnx
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.scenes import random_scene
from seg_perception.training.checkpoint import load_network, weights_sha256

if TYPE_CHECKING:
    import onnx

    from seg_perception.core.model_card import ModelCard


Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""Dataset -> metric -> percent, as a model card has them."""


@dataclass(frozen=True, slots=True)
class ImageParity:
    """One image."""

    name: str
    agreement: float  # share of pixels with the same label, 0 to 1
    largest_confidence_difference: int  # of 255


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All images; every image counts the same."""

    reference: str
    candidate: str
    images: tuple[ImageParity, ...]

    @property
    def agreement(self) -> float:
        return float(np.mean([image.agreement for image in self.images]))

    @property
    def worst(self) -> ImageParity:
        """The image with the least agreement."""
        return min(self.images, key=lambda image: image.agreement)

    @property
    def largest_confidence_difference(self) -> int:
        return max(image.largest_confidence_difference for image in self.images)

    def table(self) -> str:
        worst = self.worst
        return "\n".join(
            (
                f"parity of {self.candidate} with {self.reference}",
                f"  images                         {len(self.images)}",
                f"  equal labels                   {self.agreement:.4%}",
                f"  equal labels, worst image      {worst.agreement:.4%}  {worst.name}",
                f"  largest confidence difference  {self.largest_confidence_difference} of 255",
            )
        )


def compare(
    reference: Answerer,
    candidate: Answerer,
    images: Sequence[tuple[str, RgbImage]],
    names: tuple[str, str] = ("reference", "candidate"),
) -> ParityReport:
    """Do two forms of one model say the same? Run both on real images, since noise hides ties and resize errors.

    Args:
        reference: what is right.
        candidate: what is judged.
        images: name and uint8 [H, W, 3] RGB at the size that both take.
        names: of the two, for the report.

    Raises:
        InputError: no images.
    """
    if not images:
        raise InputError("a parity check needs at least one image")
    rows: list[ImageParity] = []
    for name, image in images:
        labels, confidence = reference(image[np.newaxis])
        other_labels, other_confidence = candidate(image[np.newaxis])
        difference = np.abs(confidence.astype(np.int16) - other_confidence)
        rows.append(ImageParity(name, float(np.mean(labels == other_labels)), int(difference.max())))
    return ParityReport(*names, tuple(rows))


def torch_answerer(network: SegmentationNetwork, temperature: float = 1.0) -> Answerer:
    """The network in torch, in evaluation mode, with the deployed graph's normalization and decision."""
    graph = DeployedGraph(network.eval(), temperature)

    def answer(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        with torch.inference_mode():
            labels, confidence = graph(torch.from_numpy(images))
        return labels.numpy(), confidence.numpy()

    return answer


_JUDGED = 4  # one calibration image in so many is kept back to judge by
_LEAST_PARITY = 0.999  # of torch and the fp32 graph; float sums in another order change few ties


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how it was judged.

    Attributes:
        path: of the ONNX file.
        model: the model card's id.
        size_bytes: of the file.
        parity: the fp32 graph in ONNX Runtime against torch.
        lowered: the fp16 or int8 graph against the fp32 one; None for fp32.
        quantized: convolutions left in float, and agreement on the images kept back; None but for int8.
        remark: on the scores that the training measured and the card does not have; empty if it has all.
    """

    path: Path
    model: str
    size_bytes: int
    parity: ParityReport
    lowered: ParityReport | None = None
    quantized: QuantizedGraph | None = None
    remark: str = ""

    def text(self) -> str:
        """For people."""
        lines = [self.parity.table()]
        if self.quantized is not None:
            q = self.quantized
            lines.append(
                f"int8: {q.convolutions - len(q.float_convolutions)} of {q.convolutions} convolutions, "
                f"{q.agreement:.3%} of labels as fp32 on the images kept back ({q.agreement_all_int8:.3%} with all "
                "of them)"
            )
            lines += [f"  left in float: {name}" for name in q.float_convolutions]
        if self.lowered is not None:
            lines.append(self.lowered.table())
        if self.remark:
            lines.append(self.remark)
        lines.append(f"wrote {self.path}: {self.model}, {self.size_bytes / 1e6:.1f} MB")
        return "\n".join(lines)


def export_model(
    checkpoint: str | Path,
    out: str | Path,
    precision: Precision | str = Precision.FP32,
    calibration: str | Path | None = None,
    agreement: float = 0.99,
    batch: int | None = None,
    size: str | Size | tuple[int, int] | None = None,
    deployed_size: str | Size | tuple[int, int] | None = None,
    camera_size: str | Size | tuple[int, int] | None = None,
    camera_encoding: CameraEncoding | str = CameraEncoding.RGB,
    temperature: float = 1.0,
    name: str | None = None,
    version: str = "0",
    scores: str | Path | None = None,
    images: str | Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda _phase, _done, _total: None,
) -> ExportReport:
    """Export a checkpoint to ONNX with its model card inside; nothing is written if torch answers otherwise.

    Args:
        checkpoint: weights that `train` wrote.
        out: the ONNX file.
        precision: "fp32", "fp16" or "int8".
        calibration: folder of some tens of typical images, which int8 needs.
        agreement: share of labels that int8 must have as fp32 has them, 0 to 1.
        batch: fixes the batch size; None: any.
        size: fixes the input size, such as "480x352"; None: any.
        deployed_size: pixel budget on the model card; None: the training's.
        camera_size: take camera images of this size, and resize inside the graph.
        camera_encoding: of the camera's bytes, which are decoded inside the graph; needs a camera size.
        temperature: of the softmax, see `calibrate`.
        name: for the model card; None: the run's.
        version: for the model card.
        scores: what `evaluate` wrote as JSON about these weights, for the model card; None: the training's, as far as
            they are of this temperature and deployed size.
        images: folder of images to compare torch and graph on; None: two rendered scenes.
        on_progress: is called with a phase, steps done and steps in all while quantizing.

    Raises:
        FileNotFoundError: no such checkpoint, folder or file.
        OSError: the file cannot be written.
        SettingsError, InputError: a wrong option, or `out` is the checkpoint.
        ModelError: the graph answers differently from torch, or int8 does not reach `agreement`.
    """
    checkpoint, out, precision = Path(checkpoint), Path(out), Precision.parse(precision)
    _check_options(precision, calibration, batch)
    make_room_for(out, checkpoint)
    encoding = CameraEncoding.parse(camera_encoding)
    if encoding is not CameraEncoding.RGB and camera_size is None:
        raise SettingsError(f"camera encoding {encoding} needs a camera size")
    fixed, camera, deployed = _parsed(size), _parsed(camera_size), _parsed(deployed_size)
    network, info = load_network(checkpoint)
    card = info.model_card(network, version, weights_sha256(checkpoint))
    card = dataclasses.replace(card, name=name or card.name)
    card = dataclasses.replace(card, run={**card.run, "temperature": temperature})
    for wanted in (deployed, fixed):
        if wanted is not None:
            check_multiple(wanted, network.size_multiple, "the network")
    remark = ""
    if scores is None:
        kept, remark = _still_true(card.scores, temperature, deployed not in (None, card.input_size))
        card = dataclasses.replace(card, scores=kept)
    card = dataclasses.replace(card, input_size=deployed or card.input_size)
    if scores is not None:
        card = dataclasses.replace(card, scores=_scores_of(Path(scores), card, precision))
    fp32 = build_onnx(network, card, temperature=temperature)
    judged_size = fixed or card.input_size
    judged = [(name, resize_image(image, judged_size)) for name, image in _parity_images(images, judged_size)]
    answer_fp32 = in_memory(fp32)
    torch_answer = torch_answerer(network, temperature)
    parity = compare(torch_answer, answer_fp32, judged, ("torch", "the fp32 graph in ONNX Runtime"))
    if parity.agreement < _LEAST_PARITY:
        raise ModelError(f"{parity.table()}\nthe graph answers differently from torch (above); {out} was not written")
    model, quantized, lowered = fp32, None, None
    if precision is Precision.FP16:
        model = to_half(fp32)
    elif precision is Precision.INT8:
        assert calibration is not None
        quantized = _quantized(fp32, Path(calibration), judged_size, agreement, on_progress)
        model = quantized.model
    if precision is not Precision.FP32:
        lowered = compare(answer_fp32, in_memory(model), judged, ("the fp32 graph", card_of(model).id))
    if camera is not None:
        model = for_camera(model, camera, fixed, encoding)
    pin_shapes(model, batch, camera or fixed)
    content = model.SerializeToString()
    write_atomically(out, content)
    return ExportReport(out, card_of(model).id, len(content), parity, lowered, quantized, remark)


def _check_options(precision: Precision, calibration: str | Path | None, batch: int | None) -> None:
    if precision is Precision.INT8 and calibration is None:
        raise SettingsError("precision int8 needs calibration, a folder of images: some tens of typical scenes")
    if batch is not None and batch < 1:
        raise SettingsError(f"batch {batch} is not accepted: it must be at least 1")


def _parsed(size: str | Size | tuple[int, int] | None) -> Size | None:
    return None if size is None else Size.parse(size)


def _still_true(scores: Scores, temperature: float, other_size: bool) -> tuple[Scores, str]:
    """Of the training's scores, measured at its size and at temperature 1, those that the graph has, too; a remark."""
    if not scores or (temperature == 1.0 and not other_size):
        return scores, ""
    advice = "evaluate what was written, and export again with --scores"
    if other_size:
        return {}, f"no scores on the model card: the training's are of another deployed size; {advice}"
    kept = {name: {m: v for m, v in of.items() if of_labels_alone(m)} for name, of in scores.items()}
    what = "the calibration and the drivable mask's scores are"
    return kept, f"{what} not on the model card: the training's are of temperature 1; {advice}"


def _scores_of(path: Path, card: ModelCard, precision: Precision) -> Scores:
    """The percentages of an evaluation of these very weights in this precision."""
    content = read_evaluations(path)
    wanted = dataclasses.replace(card, precision=precision).id
    if content.model != wanted:
        raise InputError(
            f"{path} holds the scores of {content.model}, not of {wanted}; export without --scores, "
            "evaluate that file with 'seg-perception evaluate --json', and export again with its scores"
        )
    temperature = card.run["temperature"]
    if content.temperature not in (None, temperature):  # None: files of before did not say
        raise InputError(
            f"{path} was measured at temperature {content.temperature}, and the graph shall have {temperature}: the "
            "calibration and the drivable mask's scores would be another's; evaluate that one"
        )
    return {evaluation.dataset: evaluation.percentages() for evaluation in content.evaluations}


def _parity_images(folder: str | Path | None, size: Size) -> list[tuple[str, RgbImage]]:
    if folder is not None:
        return _read_folder(Path(folder))
    rendered = Size(max(size.width, 192), max(size.height, 128))  # scenes cannot be smaller than 96x64
    return [(f"scene {seed}", random_scene(seed, rendered).image) for seed in (1, 2)]


def _read_folder(folder: Path) -> list[tuple[str, RgbImage]]:
    return [(path.name, read_rgb(path)) for path in files_in(folder, IMAGE_SUFFIXES)]


def _quantized(
    model: onnx.ModelProto, folder: Path, size: Size, agreement: float, progress: Callable[[str, int, int], None]
) -> QuantizedGraph:
    images = [resize_image(image, size) for _, image in _read_folder(folder)]
    if len(images) < 2:
        raise InputError(
            f"{folder} holds {len(images)} image; int8 needs two or more, some to calibrate, some to judge"
        )
    judging = images[::_JUDGED]
    calibration = [image for index, image in enumerate(images) if index % _JUDGED]
    return quantize(model, calibration, judging, QuantizationSettings(agreement), progress)
