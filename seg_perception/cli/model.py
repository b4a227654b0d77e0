"""The files of a model: `export`, `import`, `compile`, `inspect`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seg_perception.cli._command import (
    Command,
    LazyChoices,
    add_camera_encoding_argument,
    add_precision_argument,
    stop_on_signals,
)


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
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
        help="what 'seg-perception evaluate --json' wrote: its scores go to the model card (default: the training's, "
        "if they are of this temperature and size)",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images for the parity check (default: two rendered scenes)"
    )


def _export(arguments: argparse.Namespace) -> int:
    """Export a checkpoint to one ONNX file with its model card inside, and check that it answers as torch does."""
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


def _choices(enum: str) -> LazyChoices:
    return LazyChoices(f"export.importing:{enum}")


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="IN.onnx", help="the foreign model")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.onnx", help="the deployed model to write")
    parser.add_argument("--input", metavar="NAME", help="the image input")
    parser.add_argument("--layout", metavar="AXES", choices=_choices("Layout"), help="its axes: %(choices)s")
    help_ = "order of its channels: %(choices)s (default: rgb)"
    parser.add_argument("--color", metavar="ORDER", choices=_choices("Color"), help=help_)
    parser.add_argument("--scale", type=float, help="pixels are divided by this first, for example 255")
    parser.add_argument("--mean", type=_numbers, metavar="A[,B,C]", help="then this is subtracted")
    parser.add_argument("--std", type=_numbers, metavar="A[,B,C]", help="then it is divided by this")
    parser.add_argument("--output", metavar="NAME", help="the output to read; others fall away")
    parser.add_argument("--kind", metavar="KIND", choices=_choices("Kind"), help="what that output holds: %(choices)s")
    parser.add_argument(
        "--classes",
        metavar="PRESET|FILE",
        help="cityscapes19, cityscapes-ids, camvid11, voc21, ade150, binary-road, names (those in the file's "
        "metadata), a label set's or a mapping's .yaml",
    )
    parser.add_argument("--to", metavar="LABEL_SET", help="sum the classes into these: driving")
    parser.add_argument("--size", metavar="WxH", help="the one size that the model shall run at")
    parser.add_argument("--name", help="for the model card (default: the file's name)")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="pictures for the comparison (default: rendered streets)"
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted: write 0.485,0.456,0.406") from None


def _import(arguments: argparse.Namespace) -> int:
    """Bring somebody else's segmentation model (ONNX) to the form that the node, the engines and all commands take.

    What the file says is found out, and what was guessed is printed as the command that would state it. The result is
    compared with the original on images.
    """
    from seg_perception.export.importing import ImportRequest
    from seg_perception.export.importing.import_file import import_file

    request = ImportRequest(
        input=arguments.input,
        layout=arguments.layout,
        color=arguments.color,
        scale=arguments.scale,
        mean=arguments.mean,
        std=arguments.std,
        output=arguments.output,
        kind=arguments.kind,
        classes=arguments.classes,
        to=arguments.to,
        size=arguments.size,
    )
    report = import_file(arguments.model, arguments.out, request, name=arguments.name, images=arguments.images)
    print(report)
    return 0


def _add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file (default: the shipped model)")
    parser.add_argument("--out", type=Path, help="engine file (default: in the engine cache, where the node looks)")
    libraries = LazyChoices("engines.opening:compiling_engines")
    help_ = "%(choices)s (default: the first that is installed)"
    parser.add_argument("--library", metavar="NAME", choices=libraries, help=help_)
    add_precision_argument(parser, None, "default: fp16, or int8 of an int8 graph")
    parser.add_argument("--batch", type=int, default=1, help="largest batch (default: 1)")
    parser.add_argument("--size", metavar="WxH", help="the only input size (default: any camera shape)")
    parser.add_argument("--camera-size", metavar="WxH", help="take camera images of this size, resize in the engine")
    add_camera_encoding_argument(parser, "the engine")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="scratch memory for the builder to plan with")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep kernel timings here for later builds")
    parser.add_argument("--optimization-level", type=int, metavar="0-5", help="0 builds fastest, 5 searches longest")
    parser.add_argument("--dla-core", type=int, metavar="N", help="run what can on this DLA core, the rest on the GPU")
    parser.add_argument("--hardware-compatible", action="store_true", help="run on any GPU from Ampere on; slower")
    parser.add_argument("--target", metavar="smXX", help="build for a GPU that is not here (TensorRT-RTX)")
    parser.add_argument("--force", action="store_true", help="build even if a sound engine is there")


def _compile(arguments: argparse.Namespace) -> int:
    """Compile an exported ONNX graph to a TensorRT engine, with a JSON file beside it that says what it is for."""
    from tqdm import tqdm

    from seg_perception.core.types import CameraEncoding, Precision, Size
    from seg_perception.engines.tensorrt.build import BuildProgress, BuildStoppedError
    from seg_perception.engines.tensorrt.compilation import compile_model
    from seg_perception.engines.tensorrt.plan import BuildSettings

    settings = BuildSettings(
        precision=Precision.parse(arguments.precision) if arguments.precision else None,
        batch=arguments.batch,
        size=Size.parse(arguments.size) if arguments.size else None,
        camera_size=Size.parse(arguments.camera_size) if arguments.camera_size else None,
        camera_encoding=CameraEncoding.parse(arguments.camera_encoding),
        workspace_mib=arguments.workspace,
        optimization_level=arguments.optimization_level,
        dla_core=arguments.dla_core,
        hardware_compatible=arguments.hardware_compatible,
        target=arguments.target,
    )
    with stop_on_signals(in_callbacks=True) as stopped, tqdm(total=100, unit="%", disable=None, leave=False) as bar:

        def show(progress: BuildProgress) -> None:
            bar.set_description(progress.phase[:40])
            bar.update(int(progress.fraction * 100) - bar.n)

        try:
            report = compile_model(
                arguments.model,
                arguments.out,
                library=arguments.library,
                settings=settings,
                force=arguments.force,
                timing_cache=arguments.timing_cache,
                on_start=bar.write,
                on_stale=lambda text: bar.write(text, file=sys.stderr),
                on_progress=show,
                stop_requested=stopped.is_set,
            )
        except BuildStoppedError as error:
            print(f"seg-perception compile: {error}", file=sys.stderr)
            return 130
    built, plan = report.built, report.plan
    if built is None:
        print(f"{report.path} is there and up to date; --force builds it anew")
        return 0
    print(
        f"wrote {report.path}: {len(built.content) / 1e6:.1f} MB, {plan.precision}, {plan.sizes}, "
        f"batch up to {plan.key.batch}, {built.layers} layers, {built.seconds:.1f} s"
    )
    if built.gpu_fallback_layers:
        print(f"{len(built.dla_layers)} layers on DLA core {settings.dla_core}; on the GPU instead:")
        print("\n".join(f"  {layer}" for layer in built.gpu_fallback_layers))
    return 0


_NETWORKS = LazyChoices("networks:network_names", judged_later=True)


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "file",
        type=Path,
        nargs="?",
        help="an exported MODEL.onnx or a CHECKPOINT.safetensors (default: the shipped model)",
    )
    help_ = "a network's stages, parameters and GFLOP: %(choices)s"
    what.add_argument("--network", metavar="NAME", choices=_NETWORKS, help=help_)
    parser.add_argument("--size", metavar="WxH", help="image size for the network's table (default: 480x352)")
    parser.add_argument("--classes", type=int, default=10, help="classes of the network (default: %(default)s)")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the network, for example width=0.5 convolutions=[1,1,1,1]",
    )


def _inspect(arguments: argparse.Namespace) -> int:
    """Show what a network, a checkpoint or an ONNX file is; without a file, the shipped model.

    Of another project's ONNX file: inputs, outputs, opset, size, operators that TensorRT does not take, and the
    'import' command to try. For that it is run once, on a drawn picture.
    """
    from seg_perception.export.inspecting import inspect_file, inspect_network

    if arguments.network is None:
        print(inspect_file(arguments.file))
    else:
        options = _parse_options(arguments.options)
        print(inspect_network(arguments.network, arguments.size or "480x352", arguments.classes, **options))
    return 0


def _parse_options(texts: list[str]) -> dict[str, Any]:
    from seg_perception.core.errors import SettingsError
    from seg_perception.core.settings import parse_yaml

    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            parsed = parse_yaml(value, value)
        except SettingsError as error:
            raise SettingsError(f"--options {text!r}: {value!r} is not a YAML value") from error
        if not equals or not name.isidentifier():
            raise SettingsError(f"--options {text!r} is not accepted: write NAME=VALUE, for example width=0.5")
        options[name] = parsed
    return options


COMMANDS = (
    Command(
        "export",
        "export a checkpoint to ONNX (fp32, fp16 or int8)",
        (
            "--checkpoint runs/my_run/best.safetensors --out my.onnx",
            "--checkpoint runs/my_run/best.safetensors --out my_int8.onnx --precision int8 --calibration photos",
        ),
        _add_export_arguments,
        _export,
    ),
    Command(
        "import",
        "make a deployed model of any semantic-segmentation ONNX",
        (
            "segformer.onnx --out driving.onnx --to driving",
            "pidnet.onnx --out pidnet_ours.onnx --classes cityscapes19 --color rgb --size 1024x512",
            "unet.onnx --out road.onnx --kind sigmoid --scale 255 --mean 0 --std 1",
        ),
        _add_import_arguments,
        _import,
    ),
    Command(
        "compile",
        "compile an ONNX graph to a TensorRT engine",
        (
            "",
            "my.onnx --precision fp16 --camera-size 1920x1080 --batch 4",
            "my.onnx --library tensorrt_rtx --out my.engine",
        ),
        _add_compile_arguments,
        _compile,
    ),
    Command(
        "inspect",
        "show a network's table, or what a checkpoint or ONNX file says of itself",
        ("", "my.onnx", "segformer.onnx", "--network resnet_ladder --size 480x352"),
        _add_inspect_arguments,
        _inspect,
    ),
)
