"""Which datasets an evaluation reads, from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import SettingsError
from seg_perception.core.resources import shipped_file
from seg_perception.core.settings import from_mapping, read_yaml
from seg_perception.datasets.registry import DatasetSettings


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """One or more datasets.

    Attributes:
        datasets: as in a training's settings.
        data_root: folder that their roots are relative to.
    """

    datasets: tuple[DatasetSettings, ...]
    data_root: Path = Path()

    def __post_init__(self) -> None:
        if not self.datasets:
            raise SettingsError("datasets: at least one is needed")


def load_evaluation_settings(name_or_path: str | Path) -> EvaluationSettings:
    """Read `data_root` and `datasets`, or the validation sets of a training's settings file.

    Args:
        name_or_path: a YAML file, or the name of one in config/evaluation or config/train.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: not YAML, or any fault in it.
    """
    path = shipped_file(("config/evaluation", "config/train"), name_or_path, "settings")
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a table with 'datasets' is expected, got {type(document).__name__}")
    if "datasets" not in document and "validation" in document:  # a training's settings
        document = {"datasets": document["validation"], "data_root": document.get("data_root", ".")}
    return from_mapping(EvaluationSettings, document, str(path))
