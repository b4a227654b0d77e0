"""Image files put together byte by byte, so that the tests know what is in them."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(suffix: str, pixels: NDArray[np.generic], *settings: int) -> bytes:
    """OpenCV's file of RGB or gray pixels."""
    bgr = np.ascontiguousarray(pixels[..., ::-1]) if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(suffix, bgr, list(settings))
    assert done
    return data.tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(header: tuple[int, ...], data: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of (width, height, depth, color type, 0, 0, interlaced) and its packed data."""
    start = PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return start + before + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def exif(orientation: int, order: str = ">") -> bytes:
    """TIFF structure with one entry: tag 0x0112 (orientation), type 3 (short), count 1."""
    start = b"MM\x00\x2a" if order == ">" else b"II\x2a\x00"
    return start + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(data: bytes, content: bytes) -> bytes:
    """A JPEG, PNG or WebP with EXIF data in the place where its standard wants it."""
    if data.startswith(b"\xff\xd8"):
        body = b"Exif\x00\x00" + content
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if data.startswith(PNG_SIGNATURE):
        return data[:33] + chunk(b"eXIf", content) + data[33:]  # after signature and header
    return _with_webp_chunk(data, b"EXIF", content, 0x08)


def _with_webp_chunk(data: bytes, kind: bytes, content: bytes, flag: int) -> bytes:
    """A WebP with a further chunk, announced by a flag of the extended header."""
    assert data.startswith(b"RIFF")
    rest = data[12:]
    if rest.startswith(b"VP8X"):
        flag, rest = flag | rest[8], rest[18:]
    height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[:2]
    extended = struct.pack("<I", flag) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + extended + rest
    chunks += kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def xmp(orientation: int | str, form: str = "attribute", inside: str = "") -> bytes:
    """An XMP packet as Adobe's tools write it (ISO 16684-1, 7), the value as an attribute or an element."""
    value = {"attribute": f' tiff:Orientation="{orientation}"', "element": ""}[form]
    inside += f"<tiff:Orientation>{orientation}</tiff:Orientation>" * (form == "element")
    return (
        "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>\n<x:xmpmeta xmlns:x='adobe:ns:meta/'>"
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{value}>{inside}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>\n<?xpacket end='w'?>"
    ).encode()


def with_xmp(data: bytes, packet: bytes, how: str = "iTXt") -> bytes:
    """A JPEG, PNG, WebP or TIFF (low byte first) with an XMP packet in the place where its standard wants it.

    Args:
        how: in a PNG: as "iTXt", packed as "iTXt packed", or as ImageMagick's text.
    """
    if data.startswith(b"\xff\xd8"):
        body = b"http://ns.adobe.com/xap/1.0/\0" + packet
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if data.startswith(PNG_SIGNATURE):
        lines = b"\nxmp\n%8d\n" % len(packet) + packet.hex().encode() + b"\n"
        text = {
            "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
            "iTXt packed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(packet)),
            "ImageMagick": chunk(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(lines)),
        }[how]
        return data[:33] + text + data[33:]
    if data.startswith(b"RIFF"):
        return _with_webp_chunk(data, b"XMP ", packet, 0x04)
    start = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[start : start + 2])[0]
    rows = data[start + 2 : start + 2 + 12 * count] + struct.pack("<HHII", 700, 1, len(packet), len(data))
    directory = struct.pack("<H", count + 1) + rows + bytes(4)  # the last tag of those that are written here
    return data[:4] + struct.pack("<I", len(data) + len(packet)) + data[8:] + packet + directory


def tiff_of(
    pixels: NDArray[np.generic],
    orientation: int = 1,
    compression: int = 1,
    colors: int | None = None,
    data: bytes | None = None,
    more: tuple[tuple[int, int], ...] = (),
    next_page: int = 0,
    without: tuple[int, ...] = (),
) -> bytes:
    """A TIFF of one strip, low byte first; `more` are further tags, or other values of these, as LONG.

    Args:
        without: tags that are left out.
    """
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    depth = 8 * pixels.itemsize
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() if data is None else data
    tags = {
        256: width,
        257: height,
        258: depth,
        259: compression,
        262: (2 if samples >= 3 else 1) if colors is None else colors,
        273: 8,
        274: orientation,
        277: samples,
        278: height,
        279: len(content),
        **({} if pixels.dtype.kind == "u" else {339: {"i": 2, "f": 3, "c": 6}[pixels.dtype.kind]}),
        **dict(more),
    }
    tags = {tag: value for tag, value in tags.items() if tag not in without}
    content += bytes(len(content) % 2)
    bits_at = 8 + len(content)
    content += struct.pack("<4H", depth, depth, depth, depth)
    directory = struct.pack("<H", len(tags))
    for tag, value in sorted(tags.items()):
        if tag == 258 and samples > 1:
            directory += struct.pack("<HHII", tag, 3, samples, bits_at if samples > 2 else depth | depth << 16)
        else:
            directory += struct.pack("<HHII", tag, 4, 1, value)
    return b"II\x2a\x00" + struct.pack("<I", 8 + len(content)) + content + directory + struct.pack("<I", next_page)
