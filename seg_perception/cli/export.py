"""Export a checkpoint to one ONNX file with its model card inside, and check that it answers as torch does."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from seg_perception.core.model_card import ModelCard
    from seg_perception.core.types import Precision, RgbImage, Size

HELP = "export a checkpoint to ONNX (fp32, fp16 or int8)"

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_PRECISIONS = ("fp32", "fp16", "int8")
_JUDGED = 4  # one calibration image in so many is kept back to judge by
_LEAST_PARITY = 0.999  # of torch and the fp32 graph; float sums in another order change few ties


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights from 'seg-perception train'")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--precision", choices=_PRECISIONS, default="fp32", help="default: %(default)s")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="images for int8: some tens of typical scenes")
    parser.add_argument("--agreement", type=float, default=0.99, help="labels equal to fp32's in int8 (default: 0.99)")
    parser.add_argument("--batch", type=int, help="fix the batch size (default: any)")
    parser.add_argument("--size", metavar="WxH", help="fix the input size (default: any)")
    parser.add_argument("--deployed-size", metavar="WxH", help="pixel budget on the model card (default: training's)")
    parser.add_argument("--camera-size", metavar="WxH", help="take camera images of this size, resize in the graph")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the softmax (default: %(default)s)")
    parser.add_argument("--model-name", help="name for the model card (default: the run's)")
    parser.add_argument("--model-version", default="0", help="version for the model card (default: %(default)s)")
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE.json",
        help="what 'seg-perception evaluate --json' wrote: its scores go to the model card (default: the training's)",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images for the parity check (default: two rendered scenes)"
    )


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.core.errors import ModelError, SettingsError
    from seg_perception.core.files import write_atomically
    from seg_perception.core.types import Precision, Size
    from seg_perception.engines.graph.camera import for_camera
    from seg_perception.engines.graph.edits import card_of, pin_shapes
    from seg_perception.engines.graph.half import to_half
    from seg_perception.engines.onnxruntime import in_memory
    from seg_perception.export.parity import at_size, compare, torch_answerer
    from seg_perception.export.to_onnx import build_onnx
    from seg_perception.networks.base import check_size
    from seg_perception.training.checkpoint import load_network, weights_sha256

    precision = Precision.parse(arguments.precision)
    if precision is Precision.INT8 and arguments.calibration is None:
        raise SettingsError("--precision int8 needs --calibration DIR: some tens of images of typical scenes")
    if arguments.batch is not None and arguments.batch < 1:
        raise SettingsError(f"--batch {arguments.batch} is not accepted: it must be at least 1")
    if not arguments.out.parent.is_dir():
        raise FileNotFoundError(2, "there is no such folder to write to", str(arguments.out.parent))
    size = Size.parse(arguments.size) if arguments.size else None
    camera = Size.parse(arguments.camera_size) if arguments.camera_size else None
    network, info = load_network(arguments.checkpoint)
    card = info.model_card(network, arguments.model_version, weights_sha256(arguments.checkpoint))
    card = dataclasses.replace(card, name=arguments.model_name or card.name)
    if arguments.deployed_size:
        deployed = Size.parse(arguments.deployed_size)
        check_size(deployed.width, deployed.height, network.size_multiple)
        card = dataclasses.replace(card, input_size=deployed)
    if arguments.scores is not None:
        card = dataclasses.replace(card, scores=_scores_of(arguments.scores, card, precision))
    if size is not None:
        check_size(size.width, size.height, network.size_multiple)
    fp32 = build_onnx(network, card, temperature=arguments.temperature)
    judged_size = size or card.input_size
    images = [(name, at_size(image, judged_size)) for name, image in _parity_images(arguments.images, judged_size)]
    answer_fp32 = in_memory(fp32)
    report = compare(
        torch_answerer(network, arguments.temperature), answer_fp32, images, ("torch", "the fp32 graph in ONNX Runtime")
    )
    print(report.table())
    if report.agreement < _LEAST_PARITY:
        raise ModelError(f"the exported graph answers differently from torch (above); {arguments.out} was not written")
    model = fp32
    if precision is Precision.FP16:
        model = to_half(fp32)
    elif precision is Precision.INT8:
        model = _quantized(fp32, arguments.calibration, judged_size, arguments.agreement)
    if precision is not Precision.FP32:
        print(compare(answer_fp32, in_memory(model), images, ("the fp32 graph", f"{card_of(model).id}")).table())
    if camera is not None:
        model = for_camera(model, camera, size)
    pin_shapes(model, arguments.batch, camera or size)
    content = model.SerializeToString()
    write_atomically(arguments.out, content)
    print(f"wrote {arguments.out}: {card_of(model).id}, {len(content) / 1e6:.1f} MB")
    return 0


def _scores_of(path: Path, card: ModelCard, precision: Precision) -> dict[str, dict[str, float]]:
    """The percentages of an evaluation of these very weights in this precision."""
    from seg_perception.core.errors import InputError
    from seg_perception.evaluation.files import read_evaluations

    content = read_evaluations(path)
    wanted = dataclasses.replace(card, precision=precision).id
    if content.model != wanted:
        raise InputError(
            f"{path} holds the scores of {content.model}, not of {wanted}; export without --scores, "
            "evaluate that file with 'seg-perception evaluate --json', and export again with its scores"
        )
    return {evaluation.dataset: evaluation.percentages() for evaluation in content.evaluations}


def _parity_images(folder: Path | None, size: Size) -> list[tuple[str, RgbImage]]:
    if folder is not None:
        return _read_folder(folder)
    from seg_perception.core.types import Size
    from seg_perception.scenes import random_scene

    rendered = Size(max(size.width, 192), max(size.height, 128))  # scenes cannot be smaller than 96x64
    return [(f"scene {seed}", random_scene(seed, rendered).image) for seed in (1, 2)]


def _read_folder(folder: Path) -> list[tuple[str, RgbImage]]:
    from seg_perception.datasets.base import files_in, read_rgb

    return [(path.name, read_rgb(path)) for path in files_in(folder, _IMAGE_SUFFIXES)]


def _quantized(model: onnx.ModelProto, folder: Path, size: Size, agreement: float) -> onnx.ModelProto:
    from tqdm import tqdm

    from seg_perception.core.errors import InputError
    from seg_perception.export.parity import at_size
    from seg_perception.export.quantize import QuantizationSettings, quantize

    images = [at_size(image, size) for _, image in _read_folder(folder)]
    if len(images) < 2:
        raise InputError(
            f"{folder} holds {len(images)} image; int8 needs two or more, some to calibrate, some to judge"
        )
    judging = images[::_JUDGED]
    calibration = [image for index, image in enumerate(images) if index % _JUDGED]
    with tqdm(disable=None, leave=False) as bar:

        def show(phase: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(phase)
            bar.update(done - bar.n)

        result = quantize(model, calibration, judging, QuantizationSettings(agreement), show)
    print(
        f"int8: {result.convolutions - len(result.float_convolutions)} of {result.convolutions} convolutions, "
        f"{result.agreement:.3%} of labels as fp32 on {len(judging)} images kept back "
        f"({result.agreement_all_int8:.3%} with all of them)"
    )
    for name in result.float_convolutions:
        print(f"  left in float: {name}")
    return result.model
