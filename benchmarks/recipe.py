"""What each network and each part of the training recipe is worth, on one short schedule.

Every run is benchmarks/recipes/comparison.yaml (or --config) with one thing changed; all see the same crops of
the same images in the same order. Prints Markdown tables in percent: mean IoU on the validation sets with
the difference to the unchanged recipe, and the IoU of each class. A run that was stopped goes on where it
was; one that is done is only read. Without names, all are run.

    python benchmarks/recipe.py [--runs recipe resnet_ladder ...] [--steps 300] [--precision fp32] [--json FILE]
    python benchmarks/recipe.py --config benchmarks/recipes/camvid11.yaml --output runs/comparison11 --steps 200 \
        --runs recipe resnet_ladder reference
    python benchmarks/recipe.py --config benchmarks/recipes/distillation.yaml --runs recipe logits logits_and_relations
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seg_perception.core.settings import from_mapping, read_yaml
from seg_perception.training.checkpoint import CheckpointInfo, read_info
from seg_perception.training.settings import TrainSettings
from seg_perception.training.train import run_training

SETTINGS = Path(__file__).resolve().parent / "recipes" / "comparison.yaml"
UNCHANGED = "recipe"
FROM_SCRATCH = {"start": "random", "fresh_head": False, "frozen_stages": 0}
NO_COLOR = dict.fromkeys(("brightness", "contrast", "saturation", "color_cast", "blur", "noise", "jpeg"), 0.0) | {
    "gamma": 1.0
}
CHANGES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    UNCHANGED: {},
    # networks, all from random weights
    "efficientnet_ladder": {"network": FROM_SCRATCH},
    "resnet_ladder": {"network": {"name": "resnet_ladder", "options": {}, **FROM_SCRATCH}},
    "reference": {
        "network": {"name": "reference", "options": {"width": 0.25, "convolutions": [1, 1, 1, 1]}, **FROM_SCRATCH}
    },
    # the recipe, without one part or with one more
    "all_stages_trained": {"network": {"frozen_stages": 0}},
    "no_class_weights": {"loss": {"class_weights": {}}},
    "hard_pixels": {"loss": {"hard_pixels": 0.3}},
    "no_auxiliary_loss": {"loss": {"auxiliary": 0.0}},
    "no_average": {"optimizer": {"ema_decay": 0.0}},
    "no_color_changes": {"augmentation": NO_COLOR},
    "no_zoom": {"augmentation": {"scale": [1.0, 1.0], "aspect": 1.0}},
    "detail_rung": {"network": {"options": {}}},
    "lovasz": {"loss": {"lovasz": 0.5}},
    "logits": {"distillation": {"teachers": ["driving"], "weight": 1.0}},
    "logits_and_relations": {"distillation": {"teachers": ["driving"], "weight": 1.0, "relations": 0.5}},
    "rare_crops": {"augmentation": {"rare": 0.25, "rare_classes": ["pole", "traffic light", "traffic sign"]}},
}


def settings_of(name: str, base: Mapping[str, Any], file: Path) -> TrainSettings:
    """The settings of one run: `base`, which came from `file`, changed as its name says.

    Raises:
        SettingsError: the changed settings are not valid.
    """
    changed = dict(base) | {"name": name}
    for section, values in CHANGES[name].items():
        changed[section] = {**base.get(section, {}), **values}
    return from_mapping(TrainSettings, changed, f"{file} as {name!r}")


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown; `results` maps a run to the mean IoU in percent on each set."""
    sets = list(next(iter(results.values())))
    lines = ["| run | " + " | ".join(sets) + " | mean | difference |", "|---" * (len(sets) + 3) + "|"]
    means = {name: sum(scores.values()) / len(scores) for name, scores in results.items()}
    for name, scores in results.items():
        cells = [f"{scores[s]:.2f}" for s in sets] + [f"{means[name]:.2f}"]
        cells.append(f"{means[name] - means[UNCHANGED]:+.2f}" if UNCHANGED in means else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def class_table(results: Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> str:
    """Markdown; `results` maps a run to its metrics on one set, as a model card has them."""
    lines = ["| run | " + " | ".join(classes) + " |", "|---" * (len(classes) + 1) + "|"]
    for name, scores in results.items():
        cells = (f"{scores[key]:.1f}" if (key := f"iou/{c}") in scores else "-" for c in classes)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    parser.add_argument("--config", type=Path, default=SETTINGS, help="settings to change (%(default)s)")
    parser.add_argument("--steps", type=int, help="other than those of the settings file")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="fp32 for CPUs without bfloat16")
    parser.add_argument("--data-root", type=Path, help="folder of the datasets")
    parser.add_argument("--output", type=Path, help="folder of the runs")
    parser.add_argument("--json", type=Path, help="write all scores there")
    arguments = parser.parse_args()
    base = read_yaml(arguments.config)
    overrides = {name: getattr(arguments, name) for name in ("steps", "precision", "data_root", "output")}
    infos: dict[str, CheckpointInfo] = {}
    for name in arguments.runs:
        settings = settings_of(name, base, arguments.config)
        settings = dataclasses.replace(settings, **{k: v for k, v in overrides.items() if v is not None})
        print(f"{name}: {settings.network.name}, {settings.steps} steps", flush=True)
        infos[name] = read_info(run_training(settings))
    results = {name: info.scores for name, info in infos.items()}
    print(table({name: {s: metrics["mean_iou"] for s, metrics in sets.items()} for name, sets in results.items()}))
    first = next(iter(infos.values()))
    for dataset in first.scores:
        of_classes = class_table({name: sets[dataset] for name, sets in results.items()}, first.label_set.names)
        print(f"\n{dataset}:\n{of_classes}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
