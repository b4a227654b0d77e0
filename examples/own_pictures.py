"""Own pictures and masks to an engine: check, train, score, export, run.

python examples/own_pictures.py my_data [steps]

my_data holds images/NAME.jpg (or .png) and labels/NAME.png, 8-bit masks whose values are class ids 0 to 9,
or 255 where there is no truth; docs/datasets.md shows how to map other values. Training needs the extra
"train". With an NVIDIA GPU and TensorRT, sp.compile("own.onnx") builds its engine ahead of time.
"""

import sys
from pathlib import Path

import seg_perception as sp

if len(sys.argv) < 2:
    sys.exit(__doc__)
folder = Path(sys.argv[1]).resolve()
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200

data = {"kind": "folder", "root": str(folder), "mapping": "identity"}
weights = sp.train(
    {
        "name": "own",
        "train": [data],
        "validation": [data | {"every": 5}],  # with more pictures, hold a folder back
        "output": str(folder / "runs"),
        "network": {"start": "driving", "frozen_stages": 2},  # go on from the shipped weights
        "augmentation": {"crop": "224x160"},
        "optimizer": {"learning_rate": 0.003, "warmup_steps": 5, "ema_decay": 0.8},
        "deployed_size": "256x192",
        "steps": steps,
        "batch_size": 4,
        "validate_every": steps,
    }
)
print(f"trained: {weights}")

report = sp.export(weights, folder / "own.onnx", version="1")
print(report.text())

scores = sp.evaluate(sp.DatasetSettings("folder", folder, mapping="identity"), folder / "own.onnx")
print(scores.evaluations[0].table())

with sp.load(folder / "own.onnx") as model:
    for result in model.stream(folder / "images"):
        result.save(folder / "out")
print(f"pictures: {folder / 'out'}")
