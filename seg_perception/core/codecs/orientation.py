"""How stored pixels must be turned: EXIF says it (see `tiff`), or, where EXIF does not, XMP (ISO 16684-1).

An XMP packet is XML. One with a document type is refused, so that there are no entities to expand, and so is one of
more than `MAX_XMP` bytes.
"""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from typing import Final

log = logging.getLogger(__name__)

MAX_XMP: Final = 1 << 20  # bytes: packets have thousands, with a long history some hundred thousand

_RDF, _DESCRIPTION = (f"{{http://www.w3.org/1999/02/22-rdf-syntax-ns#}}{name}" for name in ("RDF", "Description"))
_ORIENTATION: Final = "{http://ns.adobe.com/tiff/1.0/}Orientation"


def settled(exif: int | None, xmp: bytes | memoryview | None, source: str) -> int:
    """The orientation that counts, 1 to 8: EXIF's, or else that of an XMP packet, or 1.

    Logged is where they differ, and where XMP alone might say it and is too long to be read.
    """
    other = None if xmp is None else xmp_orientation(xmp)
    if exif is None and xmp is not None and len(xmp) > MAX_XMP:
        log.warning("%s: taken as upright: its XMP of more than %d bytes is not read", source, MAX_XMP)
    if exif is not None and other is not None and exif != other:
        log.warning("%s: its EXIF orientation is %d and its XMP's is %d: EXIF's is taken", source, exif, other)
    return exif or other or 1


def xmp_orientation(packet: bytes | memoryview) -> int | None:
    """tiff:Orientation of the picture that an XMP packet describes, 1 to 8; None where it says none or cannot be read.

    Those of others that it describes (what the picture was made of) stand deeper, and do not count.
    """
    if len(packet) > MAX_XMP:
        return None
    content = bytes(packet).strip(b"\0")
    words = content.replace(b"\0", b"")  # of UTF-16, too
    if b"Orientation" not in words or b"<!DOCTYPE" in words or b"<!ENTITY" in words:
        return None
    try:
        root = ET.fromstring(content)  # noqa: S314  no document type, so no entities
    except (ET.ParseError, RecursionError, ValueError):
        return None
    descriptions = root if root.tag == _RDF else root.find(_RDF)
    for description in () if descriptions is None else descriptions.findall(_DESCRIPTION):
        value = (description.get(_ORIENTATION) or description.findtext(_ORIENTATION) or "").strip()
        if value in tuple("12345678"):
            return int(value)
    return None
