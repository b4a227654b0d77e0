"""Writes docs/api.md from the docstrings of the package's public names; test/test_api_page.py says when it is due.

    python docs/make_api.py

griffe reads the sources without importing them, so torch and ROS are not needed.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
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
full disk) stays an `OSError`.
"""

_PARTS = {
    "Looking at images": (
        *("load", "Model", "Result", "predict", "birds_eye", "inspect", "DrivableSettings", "serve_page"),
    ),
    "Bags": (
        *("process_bag", "ProcessSettings", "write_rerun", "select_frames", "score_bag", "make_bag", "recover_bag"),
        *("play_bag", "record_bag", "bag_info", "BagInfo", "BagReader"),
    ),
    "The node": ("demo", "DemoSettings", "remote_node"),
    "Data": (
        *("DatasetSettings", "check_dataset", "convert_dataset", "ConvertSettings", "export_labels", "draw_scenes"),
    ),
    "Making a model": (
        *("train", "average", "calibrate", "export", "import_model", "ImportRequest", "inspect_network", "compile"),
    ),
    "Judging a model": ("evaluate", "compare", "report", "benchmark"),
    "One step lower": ("open_engine", "EngineOptions", "Segmenter", "Segmentation", "Size"),
    "Errors": (*("SegPerceptionError", "InputError", "SettingsError", "ModelError", "EngineError", "DatasetError"),),
}


def page() -> str:
    """The whole page."""
    package = griffe.load("seg_perception", search_paths=[REPOSITORY], resolve_aliases=True)
    places = _typed_places()
    lines = [_HEAD]
    for title, names in _PARTS.items():
        lines.append(f"## {title}\n")
        for name in names:
            lines += _entry(package[places.get(name, name)], name)
    return "\n".join(lines).rstrip() + "\n"


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
    yield from _sections(found)
    for member in found.members.values():
        public = not member.name.startswith("_") or member.name in ("__call__", "__init__")
        if member.is_function and public and member.docstring:
            shown = f"sp.{name}" if member.name == "__init__" else f"{name.lower()}.{member.name}"
            shown = name.lower() if member.name == "__call__" else shown
            yield f"#### {shown}\n\n```python\n{_signature(member, shown)}\n```\n"
            yield from _sections(member)
        elif member.is_attribute and public and member.docstring and "property" in member.labels:
            yield f"#### {name.lower()}.{member.name}\n\n{_prose(member.docstring.value)}\n"


def _signature(function: griffe.Function | griffe.Alias, shown: str) -> str:
    parts = []
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(str(parameter.kind.value), "")
        text = f"{star}{parameter.name}: {parameter.annotation}"
        plain = parameter.default is not None and not star
        parts.append(f"{text} = {parameter.default}" if plain else text)
    returns = f" -> {function.returns}" if function.returns else ""
    line = f"{shown}({', '.join(parts)}){returns}"
    return line if len(line) <= 100 else f"{shown}(\n    " + ",\n    ".join(parts) + f",\n){returns}"


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
            rows = (f"- `{item.name}`: {_prose(item.description)}" for item in section.value)
            yield "\n".join(rows) + "\n"


def _prose(text: str) -> str:
    return re.sub(r"(?<!\n)\n(?!\n|    |- )", " ", text.strip())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
