"""What several commands take: a model, opened or not, and datasets by whatever names them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_perception.core.errors import SettingsError
from seg_perception.core.types import Size
from seg_perception.model import Model, load

if TYPE_CHECKING:
    from seg_perception.datasets.base import Dataset
    from seg_perception.datasets.registry import DatasetSettings

    AnyDatasets = str | Path | Dataset | DatasetSettings | Iterable[Dataset | DatasetSettings]


@contextmanager
def opened_model(
    model: str | Path | Model | None, engine: str, size: str | Size | tuple[int, int] | None, threads: int
) -> Iterator[Model]:
    """The model as it was given, or opened and closed again."""
    if isinstance(model, Model):
        yield model
        return
    with load(model, engine, size, threads) as opened:
        yield opened


def demand_report_packages() -> None:
    """A package that the page needs is better missed before the work than after it."""
    for name in ("jinja2", "matplotlib.figure"):
        importlib.import_module(name)


def open_datasets(datasets: AnyDatasets, data_root: str | Path | None = None) -> list[Dataset]:
    """Datasets, from whatever names them.

    Args:
        datasets: opened datasets or their settings, one or several; or a YAML file with `data_root` and
            `datasets`, or of a training, whose validation sets are taken; or the name of a shipped one.
        data_root: folder that the datasets' roots are relative to; None takes the file's, or the working folder.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: a wrong value.
        DatasetError: folders or files are missing.
    """
    from seg_perception.datasets import registry
    from seg_perception.evaluation.settings import load_evaluation_settings

    if isinstance(datasets, (str, Path)):
        settings = load_evaluation_settings(datasets)
        root = Path(data_root) if data_root is not None else settings.data_root
        return registry.open_datasets(settings.datasets, root)
    single = isinstance(datasets, registry.DatasetSettings) or hasattr(datasets, "load")
    several: list[Any] = [datasets] if single else list(datasets)  # type: ignore[arg-type]
    if not several:
        raise SettingsError("no dataset: at least one is needed")
    named = [one for one in several if isinstance(one, registry.DatasetSettings)]
    opened = iter(registry.open_datasets(named, Path(data_root or "")))
    return [next(opened) if isinstance(one, registry.DatasetSettings) else one for one in several]
