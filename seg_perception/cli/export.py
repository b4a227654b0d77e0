"""Export a checkpoint to one ONNX file with its model card inside, and check that it answers as torch does."""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_perception.cli._options import add_camera_encoding_argument, add_precision_argument

HELP = "export a checkpoint to ONNX (fp32, fp16 or int8)"
EXAMPLES = (
    "--checkpoint runs/my_run/best.safetensors --out my.onnx",
    "--checkpoint runs/my_run/best.safetensors --out my_int8.onnx --precision int8 --calibration photos",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights from 'seg-perception train'")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    add_precision_argument(parser, "fp32", "default: %(default)s")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="images for int8: some tens of typical scenes")
    parser.add_argument("--agreement", type=float, default=0.99, help="labels equal to fp32's in int8 (default: 0.99)")
    parser.add_argument("--batch", type=int, help="fix the batch size (default: any)")
    parser.add_argument("--size", metavar="WxH", help="fix the input size (default: any)")
    parser.add_argument("--deployed-size", metavar="WxH", help="pixel budget on the model card (default: training's)")
    parser.add_argument("--camera-size", metavar="WxH", help="take camera images of this size, resize in the graph")
    add_camera_encoding_argument(parser, "the graph")
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
    from tqdm import tqdm

    from seg_perception.export.exporting import export_model

    with tqdm(disable=None, leave=False) as bar:

        def show(phase: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(phase)
            bar.update(done - bar.n)

        report = export_model(
            arguments.checkpoint,
            arguments.out,
            precision=arguments.precision,
            calibration=arguments.calibration,
            agreement=arguments.agreement,
            batch=arguments.batch,
            size=arguments.size,
            deployed_size=arguments.deployed_size,
            camera_size=arguments.camera_size,
            camera_encoding=arguments.camera_encoding,
            temperature=arguments.temperature,
            name=arguments.model_name,
            version=arguments.model_version,
            scores=arguments.scores,
            images=arguments.images,
            on_progress=show,
        )
    print(report.text())
    return 0
