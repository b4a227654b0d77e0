"""Fills the templates of this folder. Jinja2 escapes whatever comes from outside; pages ask the network for nothing."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **content: Any) -> str:
    """One page from a file in templates/."""
    return _environment().get_template(template).render(**content)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a URI that carries them, such as "data:image/png;base64,..."."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure in a page."""

    alt: str
    uri: str

    @classmethod
    def of(cls, figure: Figure, alt: str) -> Plot:
        from seg_perception.evaluation.figures import png

        return cls(alt, data_uri(png(figure), "image/png"))


def bold(text: str) -> Markup:
    return Markup("<b>{}</b>").format(text)


def lines(*texts: str | Markup) -> Markup:
    """Texts one under the other in a cell."""
    return Markup("<br>").join(texts)


def swatch(color: tuple[int, int, int], text: str) -> Markup:
    """A class's color, RGB, before its name."""
    red, green, blue = color
    return Markup('<span class="swatch" style="background:rgb({},{},{})"></span>{}').format(red, green, blue, text)


def signed(text: str, difference: float) -> Markup:
    """A value and how far it is from another, green above and red below."""
    kind = "up" if difference > 0 else "down"
    return Markup('{} <span class="{}">{:+.2f}</span>').format(text, kind, difference)
