"""Says what a file is that is no ONNX model, by its first bytes, and what to do with it."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from seg_perception.core.errors import first_of

HEAD_BYTES = 4096
"""As many first bytes as `describe_foreign` needs."""

_RECIPE = "export it to ONNX with its own tool, then: seg-perception import MODEL.onnx --out OURS.onnx"
_TORCH = (
    "one of 'seg-perception train' is exported with: seg-perception export --checkpoint FILE --out MODEL.onnx; "
    "another project's network with torch.onnx.export, then: seg-perception import MODEL.onnx --out OURS.onnx"
)
_ARCHIVE = "unpack it and name the .onnx file inside"


def describe_foreign(path: Path, head: bytes) -> str | None:
    """What a file is and what to do with it; None where it may be ONNX.

    Args:
        path: the file, for its name and for what only a look inside a ZIP tells.
        head: its first bytes, at most HEAD_BYTES.
    """
    for recognizes, what in _SIGNATURES:
        if recognizes(head):
            return what(path) if callable(what) else what
    if path.name == "saved_model.pb" or (path.suffix == ".pb" and not head.startswith(b"\x08")):
        return f"a TensorFlow graph; {_RECIPE} (tf2onnx makes ONNX of it)"
    return _text(head)


def describe_folder(path: Path) -> str:
    """What a folder is that was given as a model, and what to do with it."""
    if (path / "saved_model.pb").is_file():
        return f"a folder with a TensorFlow SavedModel; {_RECIPE} (tf2onnx makes ONNX of it)"
    models = sorted(p.name for p in path.glob("*.onnx"))
    return "a folder; name the .onnx file" + (f", here: {first_of(models)}" if models else " itself")


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


def _at(offset: int, signature: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[offset : offset + len(signature)] == signature


def _is_safetensors(head: bytes) -> bool:
    if len(head) < 10:
        return False
    (length,) = struct.unpack_from("<Q", head)
    return 2 <= length < 1 << 32 and head[8:9] == b"{"


def _is_markup(head: bytes) -> bool:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body"))


def _is_openvino(head: bytes) -> bool:
    return head.lstrip().startswith(b"<?xml") and b"<net " in head


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a ZIP file that is cut off or damaged (PyTorch checkpoints are ZIP files): fetch it again"
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        scripted = any("/code/" in name or name.endswith("constants.pkl") for name in names)
        return f"a PyTorch {'TorchScript file' if scripted else 'checkpoint'}; {_TORCH}"
    if any(name.endswith("model.weights.h5") for name in names):
        return f"a Keras model; {_RECIPE} (tf2onnx makes ONNX of it)"
    if any(name.endswith(".npy") for name in names):
        return f"a NumPy archive, such as weights without a network; {_RECIPE}"
    return f"a ZIP archive of {len(names)} files; {_ARCHIVE}"


_SIGNATURES: tuple[tuple[Callable[[bytes], bool], str | Callable[[Path], str]], ...] = (
    (
        _starts(b"version https://git-lfs"),
        "a Git LFS pointer, not the model itself: run 'git lfs install' and 'git lfs pull' where it was cloned",
    ),
    (
        lambda head: re.match(rb"[a-z]trt", head) is not None,
        (
            "a TensorRT engine that nothing describes; name the .onnx file it was built from, or what "
            "'seg-perception compile MODEL.onnx' writes"
        ),
    ),
    (_starts(b"PK\x03\x04", b"PK\x05\x06"), _zip),
    (lambda head: re.match(rb"\x80[\x02-\x05]", head) is not None, f"a Python pickle, as old PyTorch wrote; {_TORCH}"),
    (_is_safetensors, f"safetensors, weights without a network; {_TORCH}"),
    (_at(4, b"TFL"), f"a TensorFlow Lite model; {_RECIPE} (tf2onnx makes ONNX of it)"),
    (_at(4, b"ORTM"), "a model in ONNX Runtime's own format; name the .onnx file it was made from"),
    (_starts(b"\x89HDF\r\n\x1a\n"), f"an HDF5 file, as Keras wrote; {_RECIPE} (tf2onnx makes ONNX of it)"),
    (_starts(b"GGUF"), "a GGUF file, which holds language models"),
    (_is_markup, "an HTML page, as a download that needs a login or a form saves it: fetch the model itself"),
    (_is_openvino, "an OpenVINO model (IR); name the .onnx file it was made from, and take the engine 'openvino'"),
    (_starts(b"<?xml"), "an XML file"),
    (_starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"), f"a compressed file; {_ARCHIVE}"),
    (_at(257, b"ustar"), f"a tar archive; {_ARCHIVE}"),
    (_starts(b"\x93NUMPY"), "a NumPy array"),
    (_starts(b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM"), "a picture or a video; it goes where images go"),
    (_starts(b"\x7fELF"), "a program or library for Linux"),
    (lambda head: len(head) > 64 and not head.strip(b"\0"), "nothing but zeros: fetch it again"),
)


def _text(head: bytes) -> str | None:
    """ONNX files hold bytes that no text has within the first few."""
    start = head[:200].removeprefix(b"\xef\xbb\xbf")
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not text.strip() or any(not c.isprintable() and c not in "\t\r\n" for c in text):
        return None
    line = text.strip().splitlines()[0][:60]
    return f"a text that begins with {line!r}"
