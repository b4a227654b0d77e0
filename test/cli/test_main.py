"""The command line as a whole."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import seg_perception
import seg_perception.cli
from seg_perception.cli import main as cli
from seg_perception.core.errors import EXTRA_OF, SettingsError
from seg_perception.core.types import Size
from seg_perception.engines.opening import engine_choices
from seg_perception.evaluation import EvaluationOptions
from seg_perception.scenes import random_scene


def subcommands() -> list[str]:
    return [command.name for command in cli.commands()]


def test_every_module_is_a_subcommand_with_help_of_one_line() -> None:
    assert {"train", "inspect"} <= set(subcommands())
    assert len(set(subcommands())) == len(subcommands())
    for command in cli.commands():
        assert command.help
        assert "\n" not in command.help
        assert command.run.__doc__


def test_a_new_command_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wave.py").write_text(
        "from seg_perception.cli._command import Command\n"
        "def _run(arguments):\n    'Greet a passer-by.'\n    return 3\n"
        "COMMANDS = (Command('wave', 'say hello', ('--twice',), lambda p: p.add_argument('--twice'), _run),)\n"
    )
    monkeypatch.setattr(seg_perception.cli, "__path__", [*seg_perception.cli.__path__, str(tmp_path)])
    try:
        assert cli.main(["wave"]) == 3
        with pytest.raises(SystemExit):
            cli.main(["wave", "--help"])
    finally:
        sys.modules.pop("seg_perception.cli.wave", None)
    shown = capsys.readouterr().out
    assert "Greet a passer-by." in shown
    assert "seg-perception wave --twice" in shown


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for name in subcommands():
        assert name in shown


def test_help_needs_no_heavy_package() -> None:
    code = (
        "import sys\n"
        "from seg_perception.cli.main import build_parser\n"
        "build_parser()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'rclpy', 'rosbags', 'cv2', 'numpy', 'tqdm'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluate_s_defaults_are_the_library_s() -> None:
    arguments = cli.build_parser().parse_args(["evaluate"])
    assert EvaluationOptions(arguments.min_confidence, arguments.band) == EvaluationOptions()


def _parser_whose_command(monkeypatch: pytest.MonkeyPatch, raises: BaseException) -> None:
    def run(_arguments: argparse.Namespace) -> int:
        raise raises

    def build() -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser("seg-perception walk")
        parser.set_defaults(parser=parser, run=run)
        return parser

    monkeypatch.setattr(cli, "build_parser", build)


@pytest.mark.parametrize(
    "error, status, text",
    [
        (SettingsError("own.yaml: 1 fault"), 2, "seg-perception walk: own.yaml: 1 fault\n"),
        (FileNotFoundError(2, "no such file", "x"), 2, "seg-perception walk: [Errno 2] no such file: 'x'\n"),
        (KeyboardInterrupt(), 130, "seg-perception walk: interrupted\n"),
    ],
)
def test_our_errors_are_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, text: str
) -> None:
    _parser_whose_command(monkeypatch, error)
    assert cli.main([]) == status
    assert capsys.readouterr().err == text


def test_the_extras_named_for_missing_packages_exist(repository: Path) -> None:
    extras = set(re.findall(r'^        "(\w+)": ', (repository / "setup.py").read_text(encoding="utf-8"), re.MULTILINE))
    assert extras >= {"bags", "onnx", "ros", "train"}
    sources = [file.read_text(encoding="utf-8") for file in (repository / "seg_perception").rglob("*.py")]
    named = {extra for source in sources for extra in re.findall(r"pip_install\(['\"](\w+)['\"]\)", source)}
    assert {"onnx", "bags", "cuda", "openvino"} <= named
    assert named | set(EXTRA_OF.values()) <= extras


@pytest.mark.parametrize(
    "package, command, extra",
    [
        ("rosbags", ["bag", "info", "drive.mcap"], "bags"),
        ("torch", ["train", "--config", "config/train/scenes.yaml"], "train"),
        ("rclpy", ["bag", "record", "--all", "--out", "x.mcap"], "ros"),
        ("rclpy", ["demo", "--out", "out"], "ros"),
        ("onnx", ["predict", "photo.png", "--out", "out"], "onnx"),
        ("onnxruntime", ["predict", "photo.png", "--out", "out", "--engine", "onnxruntime"], "onnx"),
        ("onnxruntime", ["predict", "photo.png", "--out", "out"], "onnx"),
        ("matplotlib", ["evaluate", "--dataset", "scenes", "--count", "1", "--report", "out"], "train"),
        (
            "jinja2",
            ["report", "--a", "threads=1", "--b", "threads=2", "--dataset", "scenes", "--out", "r.html"],
            "train",
        ),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    package: str, command: list[str], extra: str, repository: Path, tmp_path: Path
) -> None:
    # None in sys.modules makes Python raise what it raises for a package that is not installed
    code = f"import sys; sys.modules[{package!r}] = None; from seg_perception.cli.main import main; sys.exit(main())"
    (tmp_path / "config").symlink_to(repository / "config")
    (tmp_path / "photo.png").touch()
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    message = done.stderr.splitlines()[-1]
    assert done.stdout == ""  # before any work
    assert "Traceback" not in done.stderr
    assert package in message
    assert f"'seg_perception[{extra}]'" in message


def test_a_module_that_no_extra_brings_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    _parser_whose_command(monkeypatch, ModuleNotFoundError("No module named 'tqdmm'", name="tqdmm"))
    with pytest.raises(ModuleNotFoundError, match="tqdmm"):
        cli.main([])


def test_engines_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["predict", "a.png", "--out", "out", "--engine", "tensorflow"])
    error = capsys.readouterr().err
    assert all(name in error for name in engine_choices())


def test_a_fault_of_the_program_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    _parser_whose_command(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main([])


@pytest.mark.parametrize(
    "group, listed", [([], subcommands()), (["bag"], ["play", "process"]), (["dataset"], ["check"])]
)
def test_without_a_command_they_are_listed(
    group: list[str], listed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(group) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in listed)


@pytest.mark.parametrize("command", [[], ["predict"], ["bag"], ["bag", "play"], ["dataset", "check"]], ids=" ".join)
def test_every_command_says_its_version(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command, "--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"seg-perception {seg_perception.__version__}\n"


def test_a_reader_that_has_enough_gets_no_complaint() -> None:
    """`seg-perception inspect | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "seg_perception", "inspect"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_closed_streams_are_no_fault() -> None:
    """As a daemon or cron may start it: `>&- 2>&-`."""
    command = 'exec "$0" -m seg_perception inspect >&- 2>&-'
    assert subprocess.run(["/bin/sh", "-c", command, sys.executable], timeout=60, check=False).returncode == 0


def test_the_help_of_every_command_ends_with_examples_that_it_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.build_parser()
    tried = 0
    for name in subcommands():
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        shown = capsys.readouterr().out
        examples = shown.partition("\nexamples:\n")[2].splitlines()
        assert examples, name
        for line in examples:
            words = shlex.split(line.partition("     (")[0])
            assert words[:2] == ["seg-perception", name]
            parser.parse_args(words[1:])
            tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    "command, hint",
    [
        (["predct", "a.png"], "did you mean predict?"),
        (["bag", "plya", "a.mcap"], "did you mean play?"),
        (["predict", "a.png", "--out="], "argument --out: an empty text is no path; for the working folder write ."),
        (["predict", "a.png", "--out", "x", "--opcity", "1"], "--opcity: did you mean --opacity?"),
        (["predict", "a.png", "--uot", "x"], "--uot: did you mean --out?"),
        (["bag", "play", "a.mcap", "--lop"], "--lop: did you mean --loop?"),
        (["bag", "play", "a.mcap", "--rete=2"], "--rete: did you mean --rate?"),
        (["predict", "a.png", "--out", "x", "--engine", "openvno"], "did you mean openvino?"),
        (["predict", "-odd.png", "--out", "x"], "-odd.png: for the file of this name write ./-odd.png"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(
    command: list[str],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-odd.png").touch()
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(hint)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["benchmark", "--size", "64x64"], "--size: of no use without --dataset"),
        (["evaluate", "--config", "held_out", "--mapping", "camvid", "--every", "2"], "--mapping, --every: of no use"),
        (["evaluate", "--dataset", "scenes", "--data-root", "data"], "--data-root: of no use without --config"),
    ],
)
def test_options_that_would_count_for_nothing_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_word_like_no_other_gets_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["predict", "a.png", "--out", "x", "--zzz"])
    assert "did you mean" not in capsys.readouterr().err


START = """
import importlib.abc, signal, sys

moment, sys.argv = sys.argv[1], ["seg-perception", *sys.argv[2:]]

class Interrupted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupted())
import seg_perception.__main__ as start
sys.exit(start.command())
"""


@pytest.mark.parametrize(
    "at, arguments",
    [
        ("argparse", []),
        ("seg_perception.cli.main", []),
        ("cv2", ["predict", "a.png", "--out", "x"]),
    ],
)
def test_ctrl_c_while_libraries_are_loaded_is_no_traceback(at: str, arguments: list[str], repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, at, *arguments],
        cwd=repository, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_starts_where_ctrl_c_is_answered(repository: Path) -> None:
    assert '"seg-perception = seg_perception.__main__:command"' in (repository / "setup.py").read_text(encoding="utf-8")


def test_the_version_is_one(repository: Path) -> None:
    for file in ("setup.py", "package.xml"):
        assert seg_perception.__version__ in (repository / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["_a b #1?x&y%d'q\"$1$2-grün", os.fsdecode(b"latin\xe4")], ids=ascii)
def test_any_name_of_data_and_results(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("images", "labels"):
        (tmp_path / name / folder).mkdir(parents=True)
    scene = random_scene(1, Size(96, 64))
    for folder, pixels in (("images", scene.image), ("labels", scene.labels)):
        (tmp_path / name / folder / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    scores, page = f"./{name}.json", f"./{name}.html"
    commands = (
        ["evaluate", "--dataset", "folder", "--mapping", "identity", f"--root=./{name}", "--threads", "2",
         f"--json={scores}", f"--report=./{name}/report"],
        ["report", scores, f"./{name}/report", f"--out={page}"],
        ["dataset", "check", "--dataset", "folder", "--mapping", "identity", f"--root=./{name}",
         f"--picture=./{name}/balance.png"],
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert cli.main(command) in (0, 1)  # 1: the check has its doubts
    assert (tmp_path / f"{name}.html").stat().st_size > 10_000
    assert (tmp_path / name / "balance.png").is_file()
