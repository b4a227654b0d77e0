"""Proof on a machine with an NVIDIA GPU: `make verify-gpu`.

For every engine of the GPU that can run here (TensorRT, TensorRT-RTX, ONNX Runtime on CUDA): opens or builds
the shipped model in fp32, fp16 and, with TensorRT, int8 for batches of 1 to 8, compares labels and
confidence with ONNX Runtime on the CPU on real images, with the CUDA graph on and off, runs one of
them 1,000 times and watches the free device memory, and prints latency percentiles, beside PyTorch
eager and torch.compile of the same run and beside the least time that the chip's FLOPs and memory allow.
Exit status 1 if anything is wrong.

    python benchmarks/verify_gpu.py --images folder     # default: CamVid val, else rendered scenes
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, ModelError
from seg_perception.core.files import DEFAULT_MODEL
from seg_perception.core.types import Precision, RgbImage, Size
from seg_perception.engines.base import Device, Engine, EngineOptions
from seg_perception.engines.cuda import Cuda, load_cuda
from seg_perception.engines.graph import pin_shapes
from seg_perception.engines.graph.model_file import load_model
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine
from seg_perception.engines.opening import engines, open_engine

ROOT = Path(__file__).resolve().parents[1]
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "int8": 0.985}
LARGEST_BATCH = 8
GROWTH_ALLOWED = 2 << 20  # bytes of device memory over all runs; other programs share the GPU

Infer = Callable[[NDArray[np.uint8]], object]


@dataclass
class Latency:
    runner: str
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    ratio_to_fp16: float = float("nan")
    of_chip_limit: float = float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--images", type=Path)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("SEG_PERCEPTION_DATA", ROOT / "../shared/data"))
    )
    parser.add_argument("--engine", metavar="NAME", help="only this one (default: every one that runs here)")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--require-gpu", action="store_true", help="no GPU is a failure, not a skip")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "benchmarks")
    arguments = parser.parse_args()
    names, refused = gpu_engines()
    if arguments.engine:
        names = [name for name in names if name == arguments.engine]
    if not names:
        print(f"skipped, nothing was verified: {refused or f'{arguments.engine} was asked for'}")
        return 3 if arguments.require_gpu else 0
    if refused:
        print(f"not verified: {refused}")
    return Verification(arguments, names).run()


def gpu_engines() -> tuple[list[str], str]:
    """Names of the GPU's engines that run here, and why the others do not."""
    reasons = {spec.name: spec.why_not() for spec in engines().values() if spec.device is Device.GPU}
    refused = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
    return [name for name, reason in reasons.items() if reason is None], refused


def computes_int8(engine: str) -> bool:
    """ONNX Runtime would compute it in fp32."""
    return engine.startswith("tensorrt")


class Verification:
    """Collects faults and figures; the checks print as they go."""

    def __init__(self, arguments: argparse.Namespace, names: list[str]) -> None:
        self.arguments = arguments
        self.names = names
        self.cuda = Cuda(load_cuda())
        self.gpu = self.cuda.gpu()
        self.faults: list[str] = []
        self.latencies: list[Latency] = []
        model = load_model(arguments.model)
        self.graph, self.card = model.graph, model.card
        self.size = self.card.input_size
        self.images = real_images(arguments, self.size)

    def run(self) -> int:
        print(f"{self.gpu.name} (compute capability {self.gpu.capability}), {self.card.id}: {', '.join(self.names)}")
        with OnnxRuntimeEngine(self.arguments.model) as reference, TemporaryDirectory() as folder:
            models = self.models(Path(folder))
            for name in self.names:
                for precision, model in models.items():
                    if precision == "int8" and not computes_int8(name):
                        continue
                    try:
                        self.verify(name, Precision(precision), model, Path(folder) / "cache", reference)
                    except (EngineError, ModelError) as error:
                        self.fault(f"{name} {precision}: {error}")
        self.write()  # torch.compile may outlast what a borrowed GPU allows
        self.other_runners()
        self.report()
        return 1 if self.faults else 0

    def models(self, folder: Path) -> dict[str, Path]:
        """The files to compile: int8 is quantized here from the fp32 graph."""
        models = {"fp32": self.arguments.model, "fp16": self.arguments.model}
        if not any(map(computes_int8, self.names)):
            return models
        try:
            from seg_perception.export.quantize import QuantizationSettings, quantize
        except ImportError as error:
            print(f"int8 is left out: {error}")
            return models
        judging = self.images[::4]
        calibration = [image for index, image in enumerate(self.images) if index % 4] or judging
        try:
            quantized = quantize(self.graph, calibration, judging, QuantizationSettings())
        except ModelError as error:
            self.fault(f"int8: {error}")
            return models
        models["int8"] = folder / "int8.onnx"
        models["int8"].write_bytes(quantized.model.SerializeToString())
        return models

    def verify(self, name: str, precision: Precision, model: Path, cache: Path, reference: Engine) -> None:
        for graph in (True, False):
            started = time.monotonic()
            options = EngineOptions(
                precision=precision, batch=LARGEST_BATCH, size=self.size, cache=cache, cuda_graph=graph
            )
            with open_engine(model, name, options=options) as engine:
                print(f"\n{engine.info}{', CUDA graph' if graph else ''}: open in {time.monotonic() - started:.1f} s")
                self.compare(precision, engine, reference)
                self.compare_batches(precision, engine)
                if graph and not engine.uses_cuda_graph:  # type: ignore[attr-defined]
                    self.fault(f"{name} {precision}: the CUDA graph could not be captured")
                if graph and precision is Precision.FP16:
                    self.watch_memory(engine)
                for batch in (1, LARGEST_BATCH):
                    self.time(f"{name} {precision}{', CUDA graph' if graph else ''}", engine.infer, batch)

    def compare(self, precision: str, engine: Engine, reference: Engine) -> None:
        agreements, worst = [], 0
        for image in self.images:
            labels, confidence = engine.infer(image[np.newaxis])
            expected, expected_confidence = reference.infer(image[np.newaxis])
            agreements.append(float(np.mean(labels == expected)))
            worst = max(worst, int(np.abs(confidence.astype(int) - expected_confidence).max()))
        agreement = float(np.mean(agreements))
        print(f"  labels as ONNX Runtime fp32 {agreement:.4%}, largest confidence difference {worst} of 255")
        if agreement < LEAST_AGREEMENT[precision]:
            self.fault(f"{precision}: {agreement:.3%} of labels agree, {LEAST_AGREEMENT[precision]:.1%} are wanted")

    def compare_batches(self, precision: str, engine: Engine) -> None:
        """A batch answers as its images do one by one; kernels differ, so nearly tied pixels may, too."""
        alone = [engine.infer(image[np.newaxis])[0][0] for image in self.images[:LARGEST_BATCH]]
        for batch in range(2, min(LARGEST_BATCH, len(self.images)) + 1):
            labels, _ = engine.infer(np.stack(self.images[:batch]))
            agreement = float(np.mean([np.mean(a == b) for a, b in zip(labels, alone, strict=False)]))
            if agreement < 0.995:
                self.fault(f"{precision}: a batch of {batch} agrees with single images in {agreement:.3%} of labels")

    def watch_memory(self, engine: Engine) -> None:
        # each batch three times in a row: run plainly, captured, replayed; then the graph goes with its shape
        batches = [
            np.stack([self.images[i % len(self.images)]] * (1 + i // 3 % LARGEST_BATCH))
            for i in range(3 * LARGEST_BATCH)
        ]
        for images in batches:
            engine.infer(images)
        before = self.cuda.free_memory()
        for run in range(self.arguments.runs):
            engine.infer(batches[run % len(batches)])
        growth = before - self.cuda.free_memory()
        print(f"  {self.arguments.runs} runs: device memory grew by {growth} bytes")
        if growth > GROWTH_ALLOWED:
            self.fault(f"device memory grew by {growth} bytes over {self.arguments.runs} runs")

    def time(self, name: str, infer: Infer, batch: int, runs: int = 200) -> None:
        images = np.stack([self.images[i % len(self.images)] for i in range(batch)])
        for _ in range(10):
            infer(images)
        times = np.empty(runs)
        for run in range(runs):
            started = time.perf_counter()
            infer(images)
            times[run] = (time.perf_counter() - started) * 1e3
        p50, p90, p99 = np.percentile(times, (50, 90, 99))
        self.latencies.append(Latency(name, batch, float(p50), float(p90), float(p99)))

    def other_runners(self) -> None:
        for add in (self.time_torch,):
            try:
                add()
            except Exception as error:  # noqa: BLE001, PERF203  whatever is missing here, say so and go on
                print(f"\n{add.__name__} is left out: {type(error).__name__}: {error}")

    def time_torch(self) -> None:
        """The same network with fresh weights: latency does not depend on them."""
        import torch

        from seg_perception.export.to_onnx import DeployedGraph
        from seg_perception.networks import build_network

        network = build_network(self.card.network, len(self.card.label_set)).eval()
        module = DeployedGraph(network).cuda()
        for name, runner in (("PyTorch eager", module), ("torch.compile", torch.compile(module))):
            for precision, kind in (("fp32", torch.float32), ("fp16", torch.float16)):

                def infer(images: NDArray[np.uint8], runner: object = runner, kind: torch.dtype = kind) -> object:
                    with torch.inference_mode(), torch.autocast("cuda", kind, enabled=kind != torch.float32):
                        labels, confidence = runner(torch.from_numpy(images).cuda())  # type: ignore[operator]
                    return labels.cpu(), confidence.cpu()

                for batch in (1, LARGEST_BATCH):
                    self.time(f"{name} {precision}", infer, batch, runs=100)

    def report(self) -> None:
        base = {row.batch: row.p50_ms for row in self.latencies if row.runner == f"{self.names[0]} fp16, CUDA graph"}
        work = work_of(self.graph, self.size)
        limits = chip_limits(self.gpu.capability)
        print(f"\nlatency, host to host, {self.size}, {work.gflop:.2f} GFLOP an image in convolutions")
        if limits is not None:
            print(
                f"the chip: {limits.half_tflops:.0f} TFLOP/s in fp16, {limits.float_tflops:.0f} in fp32, "
                f"{limits.gigabytes:.0f} GB/s; 'of limit': the convolutions' least time by FLOPs or bytes over p50"
            )
        print(
            f"{'runner':36}{'batch':>6}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'ratio':>8}"
            f"{'TFLOP/s':>9}{'of limit':>10}"
        )
        for row in self.latencies:
            ratio = row.p50_ms / base[row.batch] if row.batch in base else float("nan")
            least = float("nan") if limits is None else limits.least_ms(work, row.batch, "fp32" in row.runner)
            row.ratio_to_fp16, row.of_chip_limit = ratio, least / row.p50_ms
            print(
                f"{row.runner:36}{row.batch:>6}{row.p50_ms:>9.2f}{row.p90_ms:>9.2f}{row.p99_ms:>9.2f}{ratio:>7.2f}x"
                f"{work.gflop * row.batch / row.p50_ms:>9.2f}{row.of_chip_limit:>10.1%}"
            )
        print(f"wrote {self.write()}")
        print("\n".join(["", f"{len(self.faults)} FAULTS:", *self.faults]) if self.faults else "\nall checks passed")

    def write(self) -> Path:
        self.arguments.out.mkdir(parents=True, exist_ok=True)
        path: Path = self.arguments.out / "verify_gpu.json"
        document = {
            "gpu": asdict(self.gpu),
            "engines": self.names,
            "model": self.card.id,
            "faults": self.faults,
            "latency": [asdict(row) for row in self.latencies],
        }
        path.write_text(json.dumps(document, indent=1))
        return path

    def fault(self, text: str) -> None:
        print(f"  FAULT {text}")
        self.faults.append(text)


@dataclass(frozen=True)
class Work:
    """Of the convolutions, for one image."""

    gflop: float
    weights: int  # numbers
    activations: int  # numbers read and written


@dataclass(frozen=True)
class ChipLimits:
    """What a chip can do at its highest clock, dense."""

    half_tflops: float  # tensor cores
    float_tflops: float
    gigabytes: float  # a second, of its memory

    def least_ms(self, work: Work, batch: int, is_float: bool) -> float:
        """Whichever takes longer: the arithmetic, or moving each tensor of the convolutions once."""
        size = 4 if is_float else 2
        arithmetic = work.gflop * batch / (self.float_tflops if is_float else self.half_tflops)
        moving = (work.weights + work.activations * batch) * size / self.gigabytes / 1e6
        return max(arithmetic, moving)


# FLOP a clock and SM: fp16 on tensor cores with fp16 sums, and fp32; from NVIDIA's architecture papers.
_FLOP_A_CLOCK = {
    "7.5": (1024, 128), "8.0": (2048, 128), "8.6": (1024, 256), "8.7": (1024, 256), "8.9": (1024, 256),
    "9.0": (4096, 256), "10.0": (8192, 256), "12.0": (1024, 256), "12.1": (1024, 256),
}  # fmt: skip


def chip_limits(capability: str) -> ChipLimits | None:
    """Of the first GPU; None where the driver or the table does not say."""
    runtime = load_cuda()
    try:
        names = runtime.cudaDeviceAttr  # type: ignore[attr-defined]
        cuda = Cuda(runtime)
        clock_khz, processors, memory_khz, bus_bits = (
            int(cuda.call("cudaDeviceGetAttribute", getattr(names, f"cudaDevAttr{name}"), 0))
            for name in ("ClockRate", "MultiProcessorCount", "MemoryClockRate", "GlobalMemoryBusWidth")
        )
        half, single = _FLOP_A_CLOCK[capability]
    except (AttributeError, EngineError, KeyError) as error:
        print(f"the chip's limits are not known: {error}")
        return None
    if not (clock_khz and memory_khz):  # of a part of a GPU, or one that shares the CPU's memory
        print("the chip's limits are not known: the driver does not tell its clocks")
        return None
    cycles = clock_khz * 1e3 * processors / 1e12
    return ChipLimits(half * cycles, single * cycles, 2 * memory_khz * 1e3 * bus_bits / 8 / 1e9)


def work_of(model: onnx.ModelProto, size: Size) -> Work:
    """Two operations for each multiply-add of the convolutions; their inputs, outputs and weights."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    pin_shapes(fixed, 1, size)
    inferred = onnx.shape_inference.infer_shapes(fixed)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    constants = {t.name: t.dims for t in model.graph.initializer}
    flop = weights = activations = 0
    for node in inferred.graph.node:
        if node.op_type == "Conv":
            _, per_group, *kernel = constants[node.input[1]]
            out = int(np.prod(shapes[node.output[0]]))
            flop += 2 * out * per_group * int(np.prod(kernel))
            weights += int(np.prod(constants[node.input[1]]))
            activations += out + int(np.prod(shapes[node.input[0]]))
    return Work(flop / 1e9, weights, activations)


def real_images(arguments: argparse.Namespace, size: Size) -> list[RgbImage]:
    from seg_perception.datasets.base import files_in, read_rgb

    folder = arguments.images or arguments.data / "camvid11" / "val" / "images"
    if folder.is_dir():
        import cv2

        paths = files_in(folder, (".jpg", ".jpeg", ".png"))[:: 1 if arguments.images else 6]
        print(f"{len(paths)} images of {folder}")
        return [np.asarray(cv2.resize(read_rgb(p), (size.width, size.height)), np.uint8) for p in paths]
    from seg_perception.scenes import random_scene

    print(f"no images under {folder}: rendered scenes instead")
    return [random_scene(seed, size).image for seed in range(12)]


if __name__ == "__main__":
    sys.exit(main())
