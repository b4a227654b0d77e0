"""Writes docs/api.md from the docstrings of the package's public names; test/test_api_page.py says when it is due.

    python docs/make_api.py

griffe reads the sources without importing them, so torch and ROS are not needed.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "api.md"

_HEAD = """# Python API

<!-- made by docs/make_api.py from the docstrings: change those, not this page -->

What a command of `seg-perception` does, the function of its name does; `examples/` has scripts that run, and a
notebook. Everything here is imported when it is first used: `import seg_perception as sp` costs nothing.

```python
import seg_perception as sp

with sp.load() as model:
    result = model("street.jpg")        # or an RGB array, or a PIL image
    print(result.shares())
    result.save("out")
    for result in model.stream("drive.mp4"):  # or a folder, a bag, a camera's index, a URL
        print(result.stamp_ns, (result.drivable > 0).mean())
```

Arrays of images are uint8 [H, W, 3] in RGB order. OpenCV reads BGR, which nothing can notice: turn it first,
`cv2.cvtColor(image, cv2.COLOR_BGR2RGB)`.

Every error that is raised on purpose is a `SegPerceptionError`; what the system says of files (a missing one, a
full disk) stays an `OSError`. Where a package is missing, the error is a `ModuleNotFoundError`, too, and names the
extra to install.
"""

_PARTS = {
    "Looking at images": (
        *("load", "Model", "Result", "predict", "PreLabel", "birds_eye", "picture_settings", "PictureSettings"),
        *("inspect", "DrivableSettings", "serve_page", "ViewSettings"),
    ),
    "Bags": (
        *("process_bag", "ProcessSettings", "write_rerun", "select_frames", "score_bag", "make_bag", "recover_bag"),
        *("play_bag", "record_bag", "bag_info", "BagInfo", "BagReader"),
    ),
    "The node": ("demo", "DemoSettings", "remote_node"),
    "Data": (
        *("DatasetSettings", "check_dataset", "convert_dataset", "ConvertSettings", "export_labels", "ShapeSettings"),
        "draw_scenes",
    ),
    "Making a model": (
        *("train", "average", "calibrate", "export", "import_model", "ImportRequest", "inspect_network", "compile"),
        "BuildSettings",
    ),
    "Judging a model": ("evaluate", "EvaluationOptions", "compare", "report", "benchmark"),
    "One step lower": ("open_engine", "EngineOptions", "Segmenter", "Segmentation", "Size"),
    "Errors": (*("SegPerceptionError", "InputError", "SettingsError", "ModelError", "EngineError", "DatasetError"),),
}


_TRAINING = ("Train", "Network", "Augmentation", "Loss", "Distillation", "Optimizer")
"""Tables of a training's YAML file, by the beginnings of their classes' names; its datasets are DatasetSettings."""


def page() -> str:
    """The whole page."""
    package = _package()
    places = _typed_places()
    lines, found = [_HEAD], {}
    for title, names in _PARTS.items():
        lines.append(f"## {title}\n")
        for name in names:
            found[name] = package[places.get(name, name)]
            lines += _entry(found[name], name)
    lines.append("## Settings of a training\n\nWhat a YAML file for `train` takes, or a table for `sp.train`.\n")
    for name in _TRAINING:
        table = package[f"training.settings.{name}Settings"]
        lines += [f"### {name}Settings\n", *_sections(table)]
    lines.append("## What comes back\n\nClasses of the answers and fields above. They are no names of `sp`.\n")
    for answer in sorted(_answers(list(found.values())), key=lambda one: one.name):
        lines += [f"### {answer.name}\n", *_class(answer, answer.name, _variable(answer.name))]
    return "\n".join(lines).rstrip() + "\n"


@cache
def _package() -> griffe.Object | griffe.Alias:
    return griffe.load("seg_perception", search_paths=[REPOSITORY], resolve_aliases=True)


def public_names() -> set[str]:
    """What the page is about."""
    return {name for names in _PARTS.values() for name in names}


def _typed_places() -> dict[str, str]:
    """Public name -> where it is defined, from the imports that `__init__.py` shows to type checkers."""
    tree = ast.parse((REPOSITORY / "seg_perception" / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("seg_perception.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seg_perception.")
        for alias in node.names
    }


def _entry(found: griffe.Object | griffe.Alias, name: str) -> Iterator[str]:
    if found.is_function:
        yield f"### sp.{name}\n\n```python\n{_signature(found, f'sp.{name}')}\n```\n"
        yield from _sections(found)
        return
    yield f"### sp.{name}\n"
    yield from _class(found, f"sp.{name}", _variable(name))


_FURTHER = ("evaluation.Evaluation",)
"""What answers consist of, as far as many will use it."""


def _answers(shown: list[griffe.Object | griffe.Alias]) -> Iterator[griffe.Object | griffe.Alias]:
    """The classes that what is shown returns or has for a field, without those that are shown."""
    known = {one.path for one in shown}
    for annotation in (annotation for one in shown for annotation in _outgoing(one)):
        for name in annotation.iterate(flat=True) if isinstance(annotation, griffe.Expr) else ():
            if isinstance(name, griffe.ExprName) and name.canonical_path.startswith("seg_perception."):
                found = _package()[name.canonical_path.removeprefix("seg_perception.")]
                enum = found.is_class and any("Enum" in str(base) for base in found.bases)
                if found.is_class and not enum and found.path not in known:
                    known.add(found.path)
                    yield found
    yield from (_package()[place] for place in _FURTHER)


def _outgoing(found: griffe.Object | griffe.Alias) -> Iterator[str | griffe.Expr | None]:
    if found.is_function:
        yield found.returns
        return
    if "dataclass" in found.labels:
        yield from (parameter.annotation for parameter in found.parameters)
    for member in found.members.values():
        if member.docstring and not member.name.startswith("_"):
            yield member.returns if member.is_function else member.annotation


def _class(found: griffe.Object | griffe.Alias, name: str, variable: str) -> Iterator[str]:
    yield from _sections(found)
    for member in found.members.values():
        if not member.docstring or (member.name.startswith("_") and member.name != "__call__"):
            continue
        if member.is_function:
            owner = name if {"classmethod", "staticmethod"} & member.labels else variable
            shown = variable if member.name == "__call__" else f"{owner}.{member.name}"
            yield f"#### {shown}\n\n```python\n{_signature(member, shown)}\n```\n"
            yield from _sections(member)
        elif "property" in member.labels:
            yield f"#### {variable}.{member.name}\n\n`{member.annotation}`: {_prose(member.docstring.value)}\n"


def _variable(name: str) -> str:
    """How one of a class may be called: DrivableSettings, drivable_settings."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _signature(function: griffe.Function | griffe.Alias, shown: str) -> str:
    parts: list[str] = []
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not any(part.startswith("*") for part in parts):
            parts.append("*")
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(str(parameter.kind.value), "")
        text = f"{star}{parameter.name}: {parameter.annotation}"
        plain = parameter.default is not None and not star
        parts.append(f"{text} = {_value(parameter.default)}" if plain else text)
    returns = f" -> {function.returns}" if function.returns else ""
    line = f"{shown}({', '.join(parts)}){returns}"
    return line if len(line) <= 100 else f"{shown}(\n    " + ",\n    ".join(parts) + f",\n){returns}"


def _value(default: str | griffe.Expr) -> str:
    """A default as its reader can use it: of a constant its value."""
    if isinstance(default, griffe.ExprName) and default.name.isupper():
        constant = _package()[default.canonical_path.removeprefix("seg_perception.")]
        return str(constant.value)
    return str(default)


def _sections(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    if found.docstring is None:
        raise SystemExit(f"{found.path} has no docstring")
    for section in found.docstring.parse("google"):
        if section.kind is griffe.DocstringSectionKind.text:
            yield f"{_prose(section.value)}\n"
        elif section.kind is griffe.DocstringSectionKind.returns:
            yield "Returns: " + " ".join(_prose(item.description) for item in section.value) + "\n"
        elif section.kind is griffe.DocstringSectionKind.raises:
            rows = (f"- **{str(item.annotation).strip('()')}**: {_prose(item.description)}" for item in section.value)
            yield "Raises:\n\n" + "\n".join(rows) + "\n"
        else:
            fields = _fields(found)
            named = [(_names(item), _prose(item.description)) for item in section.value]
            if fields and (undocumented := fields.keys() - {name for names, _ in named for name in names}):
                raise SystemExit(f"{found.path} does not say what these are: {', '.join(sorted(undocumented))}")
            yield "\n".join(f"- `{_typed(names, fields)}`: {text}" for names, text in named) + "\n"


def _names(item: griffe.DocstringNamedElement) -> list[str]:
    """Several in one line, "width, height: ...", are read by griffe as one and its annotation."""
    text = f"{item.name} {str(item.annotation).strip('()')}" if item.name.endswith(",") else item.name
    return [name.strip() for name in text.split(",")]


def _fields(found: griffe.Object | griffe.Alias) -> dict[str, str]:
    """Of a dataclass: name -> type and default."""
    if not found.is_class or "dataclass" not in found.labels:
        return {}
    fields = {parameter.name: parameter for parameter in found.parameters if parameter.name != "self"}
    return {
        name: f"{field.annotation}" + ("" if field.default is None else f" = {_value(field.default)}")
        for name, field in fields.items()
        if not name.startswith("_")
    }


def _typed(names: list[str], fields: dict[str, str]) -> str:
    if len({fields.get(name) for name in names}) > 1:
        return ", ".join(_typed([name], fields) for name in names)
    return ", ".join(names) + (f": {fields[names[0]]}" if names[0] in fields else "")


def _prose(text: str) -> str:
    return re.sub(r"(?<!\n)\n(?!\n|    |- )", " ", text.strip())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
