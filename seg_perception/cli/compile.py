"""Compile an exported ONNX graph to a TensorRT engine, with a JSON file beside it that says what it is for."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from seg_perception.cli._options import LazyChoices, add_camera_encoding_argument, add_precision_argument

HELP = "compile an ONNX graph to a TensorRT engine"
EXAMPLES = (
    "",
    "my.onnx --precision fp16 --camera-size 1920x1080 --batch 4",
    "my.onnx --library tensorrt_rtx --out my.engine",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file (default: the shipped model)")
    parser.add_argument("--out", type=Path, help="engine file (default: in the engine cache, where the node looks)")
    libraries = LazyChoices("engines.registry:compiling_engines")
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


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seg_perception.core.types import CameraEncoding, Precision, Size
    from seg_perception.engines.tensorrt.compilation import compile_model
    from seg_perception.engines.tensorrt.progress import BuildProgress, BuildStoppedError
    from seg_perception.engines.tensorrt.settings import BuildSettings

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
    with stop_on_interrupt() as stopped, tqdm(total=100, unit="%", disable=None, leave=False) as bar:

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


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event; a second one ends the process at once.

    A KeyboardInterrupt must not be raised inside TensorRT's callbacks, so the builder is asked to stop.
    """
    stopped = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stopped.set()
        print("\nstopping after the step at hand; press Ctrl-C again to end at once", file=sys.stderr)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
