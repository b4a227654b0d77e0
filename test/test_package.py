"""The package as others install it: metadata, installed files, declared dependencies."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import pytest

import seg_perception
from seg_perception.core.files import DEFAULT_MODEL, share_path

ROOT = Path(__file__).resolve().parents[1]

# Import name -> names under which requirements/*.txt or package.xml declare it.
DECLARED_AS = {
    "backports": {"backports.zstd"},
    "cv2": {"opencv-python-headless"},
    "google": {"onnx"},  # protobuf: onnx is built on it and states its versions
    "PIL": {"pillow"},  # never needed: whoever gives a PIL image has it
    "rerun": {"rerun-sdk"},
    "imageio_ffmpeg": {"imageio-ffmpeg"},
    "tensorrt": {"tensorrt-stubs"},  # TensorRT itself comes with JetPack or apt (README.md)
    "tensorrt_rtx_bindings": {"tensorrt-rtx-cu13-bindings"},
    "yaml": {"PyYAML"},
}
# Not on a registry the project may rely on, or part of another declared package.
UNDECLARED = {
    "cuda": "cuda-python, of the installed CUDA (docs/deploy.md): extra tensorrt in setup.py",
}


@cache
def package_xml() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()


def requirement_lines() -> list[tuple[Path, str]]:
    files = sorted((ROOT / "requirements").glob("*.txt"))
    return [
        (file, line)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def test_package_xml_and_setup_py_state_the_same() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    version = package_xml().findtext("version")
    maintainer = package_xml().find("maintainer")
    assert maintainer is not None
    assert f'version="{version}"' in setup
    assert version == seg_perception.__version__
    assert f'maintainer_email="{maintainer.get("email")}"' in setup
    assert f'license="{package_xml().findtext("license")}"' in setup


def test_maintainer_address_is_valid_so_that_colcon_takes_the_package_for_ament_python() -> None:
    maintainer = package_xml().find("maintainer")
    assert maintainer is not None
    assert re.fullmatch(r"[-\w.+]+@[-\w]+(\.[-\w]+)*\.[a-z]{2,}", str(maintainer.get("email")))
    assert package_xml().get("format") == "3"
    assert package_xml().findtext("export/build_type") == "ament_python"


# Where a ROS is sourced its own NumPy stays: a pin would replace it.
NOT_PINNED = {("ros-sourced.txt", "numpy<2")}


def test_every_pin_is_exact_and_says_why() -> None:
    lines = [(file, line) for file, line in requirement_lines() if not file.name.startswith("constraints")]
    assert len(lines) > 20
    for file, line in lines:
        exact = re.fullmatch(r"[\w.-]+==[\w.]+(; [^#]+)? +# .{5,}", line)
        assert exact or (file.name, line.partition(" ")[0]) in NOT_PINNED, f"{file.name}: {line}"


def test_what_make_installs_for_users_pip_s_extras_bring_too() -> None:
    extras = (ROOT / "setup.py").read_text(encoding="utf-8").lower()
    lines = [line for file, line in requirement_lines() if file.name in ("run.txt", "train.txt", "openvino.txt")]
    names = {re.split(r"[=<;\s]", line)[0].lower() for line in lines} - {"setuptools"}  # which builds
    assert len(names) > 15
    assert not [name for name in names if not re.search(f'"{re.escape(name)}[=<>]', extras)]


def test_every_imported_package_is_declared() -> None:
    declared = {re.split(r"[=<;\s]", line)[0].lower().replace("_", "-") for _, line in requirement_lines()}
    declared |= {str(e.text).lower() for e in package_xml() if e.tag.endswith("depend")}
    sources = sorted((ROOT / "seg_perception").rglob("*.py"))
    assert len(sources) > 40
    missing = set()
    for source in sources:
        for name in imported_packages(source):
            names = {name.lower(), name.lower().replace("_", "-")} | {n.lower() for n in DECLARED_AS.get(name, set())}
            if not names & declared and name not in UNDECLARED:
                missing.add(f"{name} ({source.relative_to(ROOT)})")
    assert not missing, f"imported, but neither in requirements/*.txt nor in package.xml: {sorted(missing)}"


def imported_packages(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"seg_perception"}


def test_make_runs_every_benchmark() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^BENCHMARKS \?= (.*)$", makefile, re.MULTILINE)
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")}
    assert len(scripts) > 5
    run_by_hand = {"verify_gpu", "recipe", "train_gpu", "loop", "decisions"}  # a GPU, hours, or many passes of the data
    assert set(re.findall(r"[a-z_]+", listed.replace("$(if $(wildcard $(DATA))", ""))) | run_by_hand == scripts


def test_no_link_in_the_documentation_is_dead() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link and not link.startswith("mailto:")
    ]
    assert len(links) > 5
    dead = [f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert not dead


def test_share_path_finds_the_source_tree() -> None:
    assert share_path("config/labels/driving.yaml") == ROOT / "config" / "labels" / "driving.yaml"
    with pytest.raises(FileNotFoundError, match=r"'config/no_such\.yaml' was not found under any of: .*seg_perception"):
        share_path("config/no_such.yaml")


def test_a_source_archive_is_the_whole_tree(tmp_path: Path) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the tree is no clone")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr)  # such as another user's clone
    setup = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    said = subprocess.run(setup, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stderr
    (sources,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    packed = {line for line in sources.read_text(encoding="utf-8").splitlines() if ".egg-info/" not in line}
    in_tree = {line for line in done.stdout.splitlines() if (ROOT / line).exists()}
    assert {line for line in in_tree - packed if not line.startswith((".git", ".devcontainer/"))} == set()
    assert not re.search("no previously-included|no files found", said), said  # colcon shows every such line


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix into which pip installed the package."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    source = tmp_path_factory.mktemp("source") / "seg_perception"
    prefix = tmp_path_factory.mktemp("prefix")
    leave_out = shutil.ignore_patterns(
        ".*", "__pycache__", "build", "install", "log", "out", "runs", "test", "*.egg-info"
    )
    shutil.copytree(ROOT, source, ignore=leave_out)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--ignore-installed", "--no-compile", "--no-warn-script-location"]
    subprocess.run([*pip, *options, "--prefix", str(prefix), str(source)], check=True, timeout=110)
    return prefix


def test_pip_installs_what_the_source_tree_has(installed: Path) -> None:
    share = installed / "share" / "seg_perception"
    for folder, pattern in (("launch", "*.launch.py"), ("config", "**/*.*")):
        shipped = {p.relative_to(ROOT) for p in (ROOT / folder).glob(pattern) if p.is_file()}
        found = {p.relative_to(share) for p in (share / folder).glob(pattern) if p.is_file()}
        assert shipped, f"no file in {folder}"
        assert found == shipped
    assert (installed / "share/ament_index/resource_index/packages/seg_perception").is_file()


def test_pip_puts_the_commands_on_the_path(installed: Path) -> None:
    # setup.cfg sends scripts to lib/seg_perception for `ros2 run`; .ci/colcon checks that they arrive there
    commands = {path.name for path in (installed / "bin").iterdir()}
    assert commands == {"seg-perception", "segmentation_node"}


def test_installed_code_finds_its_installed_files(installed: Path) -> None:
    (site,) = installed.glob("lib/python*/site-packages")
    code = (
        "from seg_perception.core.files import DEFAULT_MODEL, share_path;"
        "print(share_path('config/labels/driving.yaml'), DEFAULT_MODEL, sep='\\n')"
    )
    inherited = os.environ.get("PYTHONPATH", "")
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), inherited]))},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    settings, model = map(Path, result.stdout.split())
    assert settings == installed / "share/seg_perception/config/labels/driving.yaml"
    assert model == site / "seg_perception/weights/driving.onnx"
    assert (site / "seg_perception/py.typed").is_file()  # without it a type checker looks at none of our annotations
    assert model.stat().st_size == DEFAULT_MODEL.stat().st_size


def test_the_overlay_s_opacity_has_one_default() -> None:
    found = [
        f"{path.name}:{number}"
        for path in sorted((Path(__file__).parents[1] / "seg_perception").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"opacity(: float)? = 0?\.\d", line, flags=re.IGNORECASE)
    ]
    assert [place.partition(":")[0] for place in found] == ["visual.py"], found
