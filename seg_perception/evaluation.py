"""Dataset x Segmenter -> scores: any engine, so that the deployed artefact is what is scored."""

from __future__ import annotations

from dataclasses import dataclass

from tqdm import tqdm

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.metrics import ConfusionMatrix, Scores
from seg_perception.datasets.base import Dataset
from seg_perception.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one dataset says of one engine."""

    dataset: str
    images: int
    label_set: LabelSet
    scores: Scores

    def percentages(self) -> dict[str, float]:
        """Metric name -> percent, as the model card stores them: mean_iou, pixel_accuracy, iou/<class>."""
        values = {"mean_iou": self.scores.mean_iou, "pixel_accuracy": self.scores.pixel_accuracy}
        named = zip(self.label_set.names, self.scores.iou, strict=True)
        values |= {f"iou/{name}": iou for name, iou in named if iou == iou}  # NaN: class not there
        return {name: round(100 * value, 2) for name, value in values.items()}

    def table(self) -> str:
        """Per-class IoU and the sums, for a terminal."""
        lines = [f"{self.dataset}: {self.images} images, {self.scores.pixels} labelled pixels"]
        for name, iou in zip(self.label_set.names, self.scores.iou, strict=True):
            lines.append(f"  {name:<15}" + ("      -" if iou != iou else f"{100 * iou:7.2f}"))
        lines.append(f"  {'mean IoU':<15}{100 * self.scores.mean_iou:7.2f}")
        lines.append(f"  {'pixel accuracy':<15}{100 * self.scores.pixel_accuracy:7.2f}")
        return "\n".join(lines)


def evaluate(dataset: Dataset, segmenter: Segmenter, progress: bool = False) -> Evaluation:
    """Segment every image at its own size and count it against its truth.

    Raises:
        DatasetError: the dataset maps to another label set than the model's; or a file is unreadable.
        EngineError: the engine failed.
    """
    classes = segmenter.card.label_set
    if dataset.label_set.names != classes.names:
        raise DatasetError(
            f"{dataset.name} maps to the classes {', '.join(dataset.label_set.names)}, "
            f"but the model knows {', '.join(classes.names)}"
        )
    matrix = ConfusionMatrix(len(classes))
    for index in tqdm(range(len(dataset)), desc=dataset.name, unit="image", disable=not progress):
        sample = dataset.load(index)
        matrix.add(sample.labels, segmenter.segment(sample.image).labels)
    return Evaluation(dataset.name, len(dataset), classes, matrix.scores())
