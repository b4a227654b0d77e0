"""What each export of a model says and costs, and what NVIDIA's compiler makes of every network.

    python benchmarks/engines.py agreement --checkpoint seg_perception/weights/driving.safetensors --data ../shared/data
    python benchmarks/engines.py compile

`agreement` exports fp32, fp16 and int8, runs them in ONNX Runtime on CamVid val, and prints label
agreement with fp32, mean IoU and the latency ratio; exit status 1 where an export agrees less than it
must. `compile` builds network x precision x batch of every network, with random weights, with TensorRT
and prints a table; exit status 1 where one is not built. Both write JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seg_perception.core.errors import DatasetError, EngineError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Precision, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("fp32", "fp16", "int8")
LEAST_AGREEMENT = {"fp32": 100.0, "fp16": 99.5, "int8": 98.5}  # percent of labels as fp32
LARGEST_IOU_CHANGE = 1.0  # points


@dataclass(frozen=True)
class Agreement:
    precision: str
    images: int
    labels_as_fp32_percent: float
    worst_image_percent: float
    largest_confidence_difference: int
    mean_iou_percent: float
    latency_ratio_to_fp32: float
    megabytes: float


@dataclass(frozen=True)
class Compiled:
    network: str
    precision: str
    batch: int
    built: bool
    engine_megabytes: float
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("agreement", "compile"), default="compile")
    parser.add_argument("--checkpoint", type=Path, help="weights from 'seg-perception train'")
    parser.add_argument("--model", type=Path, help="agreement: an fp32 ONNX instead of a checkpoint")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("SEG_PERCEPTION_DATA", ROOT / "../shared/data"))
    )
    parser.add_argument("--calibration-images", type=int, default=24)
    parser.add_argument("--agreement", type=float, default=0.99, help="asked of the int8 quantizer")
    parser.add_argument("--every", type=int, default=1, help="use every n-th image of CamVid val")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "benchmarks")
    arguments = parser.parse_args()
    rows: Sequence[Agreement | Compiled]
    if arguments.what == "agreement":
        rows = agreements = measure_agreement(arguments)
        missed = missed_targets(agreements)
    else:
        rows = builds = compile_all()
        missed = [f"{row.network} {row.precision} batch {row.batch} was not built" for row in builds if not row.built]
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"engines_{arguments.what}.json"
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print("\n".join([f"wrote {path}", *missed]))
    return 1 if missed else 0


def missed_targets(rows: list[Agreement]) -> list[str]:
    fp32 = next(row for row in rows if row.precision == "fp32")
    missed = []
    for row in rows:
        least, lost = LEAST_AGREEMENT[row.precision], fp32.mean_iou_percent - row.mean_iou_percent
        if row.labels_as_fp32_percent < least:
            missed.append(f"{row.precision}: {row.labels_as_fp32_percent} % of labels as fp32, {least} % are wanted")
        if abs(lost) > LARGEST_IOU_CHANGE:
            missed.append(f"{row.precision}: mean IoU {lost:.2f} points below fp32, {LARGEST_IOU_CHANGE} are allowed")
    return missed


def measure_agreement(arguments: argparse.Namespace) -> list[Agreement]:
    from seg_perception.core.resizing import resize_image
    from seg_perception.datasets import camvid
    from seg_perception.engines.graph.half import to_half
    from seg_perception.engines.graph.model_file import load_model
    from seg_perception.engines.onnxruntime import in_memory
    from seg_perception.export.exporting import compare
    from seg_perception.export.quantize import QuantizationSettings, quantize

    root = arguments.data / "camvid11"
    if not root.is_dir():
        raise SystemExit(f"skipped: no CamVid under {root}; name the folder with --data")
    fp32 = load_model(arguments.model).graph if arguments.model else exported(arguments.checkpoint)
    size = Size(480, 352)  # CamVid is 480x360, and the network takes multiples of 32
    train, val = camvid.open_dataset(root, "train"), camvid.open_dataset(root, "val")
    step = max(1, len(train) // arguments.calibration_images)
    scenes = [resize_image(train.load(i).image, size) for i in range(0, len(train), step)]
    graphs = {"fp32": fp32, "fp16": to_half(fp32)}
    judged, calibrating = scenes[::4], [s for i, s in enumerate(scenes) if i % 4]
    quantized = quantize(fp32, calibrating, judged, QuantizationSettings(arguments.agreement))
    print(f"int8: float {list(quantized.float_convolutions) or 'none'}, all int8 {quantized.agreement_all_int8:.3%}")
    graphs["int8"] = quantized.model
    answers = {precision: in_memory(graph, threads=2) for precision, graph in graphs.items()}
    samples = [val.load(i) for i in range(0, len(val), arguments.every)]
    images = [(s.name, resize_image(s.image, size)) for s in samples]
    latency = latencies(answers, images[0][1])
    rows: list[Agreement] = []
    for precision, answer in answers.items():
        report = compare(answers["fp32"], answer, images)
        confusion = ConfusionMatrix(len(val.label_set))
        for sample, (_, image) in zip(samples, images, strict=True):
            confusion.add(_resize_labels(sample.labels, size), answer(image[np.newaxis])[0][0])
        rows.append(
            Agreement(
                precision,
                len(images),
                round(report.agreement * 100, 3),
                round(report.worst.agreement * 100, 3),
                report.largest_confidence_difference,
                round(confusion.scores().mean_iou * 100, 2),
                round(latency[precision] / latency["fp32"], 2),
                round(graphs[precision].ByteSize() / 1e6, 1),
            )
        )
    head = f"{'precision':10}{'labels as fp32':>16}{'worst image':>13}{'confidence':>12}"
    print(f"{head}{'mean IoU':>10}{'latency':>9}{'MB':>7}")
    for row in rows:
        print(
            f"{row.precision:10}{row.labels_as_fp32_percent:>14.3f} %{row.worst_image_percent:>11.3f} %"
            f"{row.largest_confidence_difference:>8}/255{row.mean_iou_percent:>10.2f}"
            f"{row.latency_ratio_to_fp32:>8.2f}x{row.megabytes:>7.1f}"
        )
    return rows


def _resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    import cv2

    return cv2.resize(labels, (size.width, size.height), interpolation=cv2.INTER_NEAREST_EXACT)


def latencies(answers: dict[str, object], image: np.ndarray, runs: int = 15) -> dict[str, float]:
    """Median seconds, interleaved so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {precision: [] for precision in answers}
    for _ in range(runs):
        for precision, answer in answers.items():
            started = time.perf_counter()
            answer(image[np.newaxis])  # type: ignore[operator]
            times[precision].append(time.perf_counter() - started)
    return {precision: float(np.median(values)) for precision, values in times.items()}


def exported(checkpoint: Path | None) -> onnx.ModelProto:
    from seg_perception.export.to_onnx import build_onnx
    from seg_perception.training.checkpoint import load_network, weights_sha256

    if checkpoint is None:
        raise SystemExit("agreement needs --checkpoint or --model")
    network, info = load_network(checkpoint)
    return build_onnx(network, info.model_card(network, "0", weights_sha256(checkpoint)))


def compile_all() -> list[Compiled]:
    from seg_perception.engines.graph.half import to_half
    from seg_perception.engines.graph.model_file import parse_model
    from seg_perception.engines.tensorrt.build import build_engine
    from seg_perception.engines.tensorrt.plan import BuildSettings, make_plan
    from seg_perception.engines.tensorrt.versions import load_library
    from seg_perception.export.quantize import QuantizationSettings, quantize
    from seg_perception.export.to_onnx import build_onnx
    from seg_perception.networks import build_network, network_names
    from seg_perception.scenes import random_scene

    try:
        library = load_library()
    except EngineError as error:
        print(f"skipped: {error}")
        return []
    print(f"{library}, static batch 1 and dynamic batch 1 to 4, 480x352")
    print(f"{'network':24}{'precision':>10}{'batch':>7}{'built':>7}{'MB':>8}{'seconds':>9}")
    rows: list[Compiled] = []
    scenes = [random_scene(seed, Size(128, 96)).image for seed in (1, 2, 3)]
    for name in network_names():
        network = build_network(name, 10)
        card = ModelCard(
            name, "0", name, load_label_set("driving"), Size(480, 352), network.size_multiple, Precision.FP32, "0" * 64
        )
        fp32 = build_onnx(network, card)
        graphs = {"fp32": fp32, "fp16": to_half(fp32)}
        graphs["int8"] = quantize(fp32, scenes[:2], scenes[2:], QuantizationSettings(0.01)).model
        for precision in PRECISIONS:
            for batch in (1, 4):
                content = graphs[precision].SerializeToString()
                try:
                    settings = BuildSettings(Precision(precision), batch)
                    built = build_engine(make_plan(parse_model(content, name), settings, library, None))
                    row = Compiled(
                        name, precision, batch, True, round(len(built.content) / 1e6, 1), round(built.seconds, 1)
                    )
                except EngineError as error:
                    print(error)
                    row = Compiled(name, precision, batch, False, 0.0, 0.0)
                rows.append(row)
                done = "yes" if row.built else "NO"
                print(f"{name:24}{precision:>10}{batch:>7}{done:>7}{row.engine_megabytes:>8.1f}{row.seconds:>9.1f}")
    return rows


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except DatasetError as error:
        raise SystemExit(str(error)) from error
