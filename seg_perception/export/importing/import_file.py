"""The whole import in one call: read, decide, wrap, write, open as an engine, compare with the original."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from seg_perception.core.errors import InputError
from seg_perception.core.files import write_atomically
from seg_perception.core.image_file import IMAGE_SUFFIXES, image_files, read_rgb
from seg_perception.core.resizing import resize_image
from seg_perception.core.types import RgbImage, Size
from seg_perception.engines.opening import open_engine
from seg_perception.export.importing.comparison import Comparison, compare_with_original
from seg_perception.export.importing.importer import DEFAULT_SIZE, Imported, import_model
from seg_perception.export.importing.model import ImportRequest, count_operators, not_in_tensorrt, read_foreign
from seg_perception.export.importing.original import OriginalModel

_IMAGES = 4


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was made, what was guessed, and whether it says the same."""

    source: Path
    out: Path
    imported: Imported
    comparison: Comparison

    def __str__(self) -> str:
        card, decision, classes = self.imported.card, self.imported.decision, self.imported.classes
        lines = [f"{self.out}: {card.id}, {len(card.label_set)} classes of {card.label_set.name}, {card.input_size}"]
        if decision.reasons:
            lines += ["guessed:", *(f"  {reason}" for reason in decision.reasons), "the command that states it:"]
            lines += [f"    {decision.command(self.source, self.out)}"]
        lines += classes.notes
        if card.confidence == "none":
            lines.append("the model answers ids only: the confidence is 255 everywhere, thresholds on it mean nothing")
        if foreign := not_in_tensorrt(count_operators(self.imported.model)):
            lines.append(f"operators that TensorRT does not take: {', '.join(foreign)}")
        lines.append(str(self.comparison))
        return "\n".join(lines)


def import_file(
    source: str | Path,
    out: str | Path,
    request: ImportRequest | None = None,
    name: str | None = None,
    images: str | Path | None = None,
) -> ImportReport:
    """Make a deployed model file of any semantic-segmentation ONNX file.

    Args:
        source: the foreign model.
        out: the deployed model to write.
        request: what is known about the model; None: everything is guessed.
        name: for the model card; None: the source's name.
        images: a folder of pictures for the comparison; None: rendered streets.

    Raises:
        FileNotFoundError: no such model or folder.
        ModelError, InputError, SettingsError: it cannot be imported; nothing is written.
        EngineError: ONNX Runtime does not run the result; nothing is left.
    """
    source, out, images = Path(source), Path(out), Path(images) if images is not None else None
    if out.resolve() == source.resolve():
        raise InputError(f"{out}: the output would replace the model that it is made from; name another file")
    original = OriginalModel(read_foreign(source))
    imported = import_model(original, request or ImportRequest(), name)
    pictures = _pictures(images, imported.decision.input_size or imported.card.input_size)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, imported.model.SerializeToString())
    try:
        comparison = _compare(original, imported, out, pictures)
    except Exception:
        out.unlink(missing_ok=True)
        raise
    return ImportReport(source, out, imported, comparison)


def _compare(original: OriginalModel, imported: Imported, out: Path, pictures: dict[str, RgbImage]) -> Comparison:
    with open_engine(out, "onnxruntime") as engine:
        return compare_with_original(original, imported, engine.infer, pictures)


def _pictures(folder: Path | None, size: Size) -> dict[str, RgbImage]:
    if folder is None:
        from seg_perception.datasets.scenes import ScenesDataset

        scenes = ScenesDataset("val", _IMAGES, DEFAULT_SIZE)
        found = {f"scene {index}": scenes.load(index).image for index in range(len(scenes))}
    else:
        files, _others = image_files(folder.iterdir())
        if not files:
            raise InputError(f"{folder}: no picture in it ({', '.join(IMAGE_SUFFIXES)})")
        found = {path.name: read_rgb(path) for path in islice(files, 20)}
    return {name: resize_image(image, size) for name, image in found.items()}
