"""Measure every engine that runs on this machine, and say which one to give the node.

For each engine, precision, size and number of threads (batch on a GPU): milliseconds and CPU milliseconds of an
image, memory, labels equal to the first model's in ONNX Runtime, and mean IoU where a dataset is named. Further
models are the same network in other precisions, such as an int8 export.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "measure every engine of this machine, and say which to take"
EXAMPLES = (
    "--threads 1 2 4",
    "driving.onnx driving_int8.onnx --images photos --out out/benchmark --store",
    "--dataset camvid --root ../data/camvid11 --every 5",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from seg_perception.cli._options import add_dataset_arguments

    parser.add_argument("model", nargs="*", type=Path, metavar="MODEL", help="ONNX files (default: the shipped model)")
    parser.add_argument("--engines", nargs="+", default=[], metavar="NAME", help="only these (default: all that run)")
    parser.add_argument(
        "--network-sizes", nargs="+", default=[], metavar="WxH", help="network sizes (default: the model card's)"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[], metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="on a GPU (default: 1)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of running, for each (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="images to run on (default: rendered scenes)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write benchmark.json and benchmark.png")
    parser.add_argument(
        "--store", action="store_true", help="let 'engine: auto' take the best one for this model on this machine"
    )
    add_dataset_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    import json

    from tqdm import tqdm

    from seg_perception.cli._options import dataset_settings, refuse_without_dataset
    from seg_perception.commands.judging import benchmark
    from seg_perception.core.files import make_room_for, write_atomically
    from seg_perception.engines.tuned import store_answer, tuned_file
    from seg_perception.evaluation.engine_benchmark import draw

    refuse_without_dataset(arguments)
    if arguments.out is not None:  # what cannot be written is better known before the work, and a missing Matplotlib
        import matplotlib.figure  # noqa: F401

        for name in ("benchmark.json", "benchmark.png"):
            make_room_for(arguments.out / name)
    if arguments.store:
        make_room_for(tuned_file())
    with tqdm(disable=None, leave=False, bar_format="{desc}") as bar:
        result = benchmark(
            arguments.model or None,
            arguments.pictures,
            arguments.engines,
            arguments.network_sizes,
            arguments.threads,
            arguments.batches,
            arguments.seconds,
            dataset_settings(arguments) if arguments.dataset else None,
            on_step=bar.set_description_str,
        )
    print(result.table())
    print(f"\nfor the node's parameters:\n{result.parameters()}")
    if arguments.out is not None:
        write_atomically(arguments.out / "benchmark.json", json.dumps(result.document(), indent=1).encode())
        write_atomically(arguments.out / "benchmark.png", draw(result))
        print(f"wrote {arguments.out / 'benchmark.json'} and benchmark.png")
    answer = result.answer()
    if arguments.store and answer is not None:
        print(f"stored in {store_answer(answer)}: engine auto takes {answer}")
    elif arguments.store:
        print("nothing stored: the machine was busy, or the best is not the first model on the CPU: name it yourself")
    elif answer is not None and answer.engine != "onnxruntime":
        print("with --store, 'engine: auto' takes it for this model on this machine")
    return 0
