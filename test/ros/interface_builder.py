"""Builds real message packages that no registry carries (tf2_msgs, bond, vision_msgs), with ROS's own generators.

The generators and headers come with the ROS wheels and with every ROS install; a C and a C++ compiler must be there.
The definitions below are the published ones, so that the types (and their hashes) are those of a robot.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGES: dict[str, dict[str, str]] = {
    "tf2_msgs": {"TFMessage": "geometry_msgs/TransformStamped[] transforms\n"},
    "bond": {
        "Status": (
            "std_msgs/Header header\nstring id\nstring instance_id\nbool active\n"
            "float32 heartbeat_timeout\nfloat32 heartbeat_period\n"
        ),
        "Constants": (
            "float32 DEAD_PUBLISH_PERIOD = 0.05\nfloat32 DEFAULT_CONNECT_TIMEOUT = 10.0\n"
            "float32 DEFAULT_HEARTBEAT_TIMEOUT = 4.0\nfloat32 DEFAULT_DISCONNECT_TIMEOUT = 2.0\n"
            "float32 DEFAULT_HEARTBEAT_PERIOD = 1.0\n"
            "string DISABLE_HEARTBEAT_TIMEOUT_PARAM=/bond_disable_heartbeat_timeout\n"
        ),
    },
    "vision_msgs": {
        "VisionClass": "uint16 class_id\nstring class_name\n",
        "LabelInfo": "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
    },
}

_GENERATORS = ("rosidl_adapter", "rosidl_generator_c", "rosidl_generator_py", "rosidl_typesupport_fastrtps_c")


def why_not() -> str:
    """Why packages cannot be built here; empty: they can."""
    missing = [name for name in _GENERATORS if importlib.util.find_spec(name) is None]
    missing += [tool for tool in ("gcc", "g++") if shutil.which(tool) is None]
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    missing += [] if headers.is_file() else [str(headers)]
    return f"message packages cannot be built here, missing: {', '.join(missing)}" if missing else ""


def build(names: tuple[str, ...], out: Path) -> None:
    """Build packages that can be imported once `out` is on sys.path."""
    prefix = Path(sys.prefix)
    roots = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    roots = [*roots, prefix]
    jobs: list[Callable[[], object]] = []
    with ThreadPoolExecutor(2) as pool:
        for name in names:
            jobs += _package(name, PACKAGES[name], out, roots)
        objects = list(pool.map(lambda job: job(), jobs))
    assert all(objects)
    for name in names:
        _link(name, out, roots)


def load(out: Path) -> None:
    """Load the libraries, so that ROS finds them by name; the path that it would search is fixed at start."""
    for library in sorted((out / "lib").iterdir()):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _package(name: str, messages: dict[str, str], out: Path, roots: list[Path]) -> list[Callable[[], object]]:
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c import generate_c
    from rosidl_generator_py import generate_py
    from rosidl_generator_type_description import generate_type_hash
    from rosidl_typesupport_c import generate_c as generate_typesupport
    from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
    from rosidl_typesupport_introspection_c import generate_c as generate_introspection

    source = out / "source" / name
    (source / "msg").mkdir(parents=True)
    for message, text in messages.items():
        (source / "msg" / f"{message}.msg").write_text(text, encoding="utf-8")
        convert_msg_to_idl(source, name, Path("msg") / f"{message}.msg", source / "msg")
    idls = [f"{source}:msg/{message}.idl" for message in messages]
    shares = [share for root in roots for share in (root / "share").glob("*/msg") if share.is_dir()]
    paths = [f"{share.parent.name}:{share.parent}" for share in shares]

    def arguments(generator: str, folder: Path, **more: object) -> str:
        share = next(root / "share" / generator for root in roots if (root / "share" / generator).is_dir())
        file = source / f"{generator}.json"
        file.write_text(
            json.dumps(
                {
                    "package_name": name,
                    "output_dir": str(folder),
                    "template_dir": str(share / "resource"),
                    "idl_tuples": idls,
                    "target_dependencies": [],
                    "include_paths": paths,
                    "ros_interface_dependencies": paths,
                    **more,
                }
            ),
            encoding="utf-8",
        )
        return str(file)

    generated = out / "include" / name  # as `#include "<name>/msg/..."` expects it
    python = out / name
    generate_type_hash(arguments("rosidl_generator_type_description", source))
    described = [f"msg/{message}.idl:{source / 'msg' / f'{message}.json'}" for message in messages]
    generate_c(arguments("rosidl_generator_c", generated, type_description_tuples=described))
    generate_typesupport_fastrtps_c(arguments("rosidl_typesupport_fastrtps_c", generated))
    generate_introspection(arguments("rosidl_typesupport_introspection_c", generated))
    supports = ["rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c"]
    generate_typesupport(arguments("rosidl_typesupport_c", generated), supports)
    generate_py(arguments("rosidl_generator_py", python), ["rosidl_typesupport_c"])
    (python / "__init__.py").touch()
    folder = generated / "msg"
    for generator in ("rosidl_generator_c", *supports):
        lines = [f"#define {generator.upper()}_{kind}_{name}" for kind in ("EXPORT", "IMPORT", "PUBLIC")]
        header = folder / f"{generator}__visibility_control.h"
        header.write_text("\n".join(["#pragma once", *lines, ""]), encoding="utf-8")
    c_files = [*generated.rglob("*.c"), *python.rglob("*.c")]
    return [
        lambda file=file: _compile(file, out, roots)  # type: ignore[misc]
        for file in [*c_files, *generated.rglob("*.cpp")]
    ]


def _compile(file: Path, out: Path, roots: list[Path]) -> Path:
    import numpy as np

    includes = [out / "include", Path(sysconfig.get_paths()["include"]), Path(np.get_include())]
    for root in roots:
        includes += [root / "include", *(p for p in (root / "include").glob("*") if p.is_dir())]
    compiler = "gcc" if file.suffix == ".c" else "g++"
    target = file.with_suffix(file.suffix + ".o")
    flags = ["-O0", "-fPIC", "-w", "-std=c++17" if compiler == "g++" else "-std=gnu11"]
    _run([compiler, *flags, *(f"-I{path}" for path in includes), "-c", file, "-o", target])
    return target


def _link(name: str, out: Path, roots: list[Path]) -> None:
    libraries = [lib for root in roots for lib in (root / "lib").glob("lib*.so")]
    used = ("libstd_msgs__", "libgeometry_msgs__", "libbuiltin_interfaces__")
    floor = ("rosidl_runtime_c", "rosidl_typesupport_c", "rosidl_typesupport_fastrtps_c", "fastcdr", "rmw", "rcutils")
    floor = (*floor, "rosidl_typesupport_fastrtps_cpp", "rosidl_typesupport_introspection_c")
    needed = [str(lib) for lib in libraries if lib.name.startswith(used) or lib.stem.removeprefix("lib") in floor]
    needed += [str(lib) for root in roots for lib in (root / "lib").glob("libfastcdr.so*")]
    paths = [f"-Wl,-rpath,{root / 'lib'}" for root in roots]
    (out / "lib").mkdir(exist_ok=True)
    objects = [*(out / "include" / name).rglob("*.o")]
    kinds = ("generator_c", "typesupport_c", "typesupport_fastrtps_c", "typesupport_introspection_c")
    for kind in kinds:  # ROS looks for one library of each kind, by its name: all hold the same
        library = out / "lib" / f"lib{name}__rosidl_{kind}.so"
        soname = f"-Wl,-soname,{library.name}"
        _run(["g++", "-shared", soname, "-o", library, *objects, *sorted(set(needed)), *paths])
    target = out / name / f"{name}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    own = [
        "-Wl,-rpath,$ORIGIN/../lib",
        str(out / "lib" / f"lib{name}__rosidl_generator_c.so"),
        *sorted(set(needed)),
        *paths,
    ]
    _run(["g++", "-shared", "-o", target, *(out / name).rglob("*.o"), *own])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
