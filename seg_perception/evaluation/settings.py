"""Which datasets an evaluation reads, from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import SettingsError
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


def load_evaluation_settings(path: Path) -> EvaluationSettings:
    """Read `data_root` and `datasets`, or the validation sets of a training's settings file.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: not YAML, or any fault in it.
    """
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a table with 'datasets' is expected, got {type(document).__name__}")
    if "datasets" not in document and "validation" in document:  # a training's settings
        document = {"datasets": document["validation"], "data_root": document.get("data_root", ".")}
    return from_mapping(EvaluationSettings, document, str(path))
