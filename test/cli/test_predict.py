from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import drivable_of, picture, truth_of, write_tiny_model

from seg_perception.cli.main import main
from seg_perception.core.errors import InputError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.core.visual import colorize, outline, overlay
from seg_perception.datasets.convert.conversion import ConvertSettings, convert
from seg_perception.datasets.registry import DatasetSettings, open_dataset
from seg_perception.video import VideoReader, VideoWriter

DRIVING = load_label_set("driving")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """labels = red // 26; a 64x48 picture is the network's own size, so the answer is exact."""
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx"))


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def write_image(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture(index)[:, :, ::-1])[1].tobytes())


def test_images_and_folders(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "one.png", 0)
    write_image(tmp_path / "folder" / "front" / "two.png", 1)
    write_image(tmp_path / "folder" / "three.png", 2)
    (tmp_path / "folder" / "notes.txt").write_text("not an image")
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "one.png"), str(tmp_path / "folder"), "--out", str(out), "--model", model]
    assert main(arguments) == 0
    assert f"{out}: 3 images" in capsys.readouterr().out
    for name, index in (("one", 0), ("front/two", 1), ("three", 2)):
        labels = truth_of(picture(index))
        np.testing.assert_array_equal(read(out / "labels" / f"{name}.png"), labels)
        np.testing.assert_array_equal(read(out / "drivable" / f"{name}.png"), drivable_of(picture(index)))
        np.testing.assert_array_equal(read(out / "confidence" / f"{name}.png"), picture(index)[..., 1])
        np.testing.assert_array_equal(read(out / "colors" / f"{name}.png")[:, :, ::-1], colorize(labels, DRIVING))
        drawn = outline(overlay(picture(index), labels, DRIVING), drivable_of(picture(index)).astype(np.uint8), width=1)
        shown = read(out / "overlay" / f"{name}.png")[:, :, ::-1]
        np.testing.assert_array_equal(shown[:48, :64], drawn)
        assert shown.shape[0] > 48 + 100  # below it the legend: ten classes at 64 pixels, one a row
    assert len(list(out.rglob("*.png"))) == 15


def test_results_are_no_input_of_the_next_run(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(Path("photos/one.png"), 0)
    for _ in range(2):
        assert main(["predict", "photos", "--out", "photos/out", "--model", model]) == 0
        said = capsys.readouterr()
        assert "photos/out: 1 images" in said.out
    assert "photos/out: not looked at for images" in said.err
    assert main(["predict", ".", "photos", "--out", "photos", "--model", model]) == 2
    assert "photos: the results would lie among the images" in capsys.readouterr().err


def test_truth_is_not_written_over(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "images" / "one.png", 0)
    write_image(tmp_path / "labels" / "one.png", 1)
    before = (tmp_path / "labels" / "one.png").read_bytes()
    assert main(["predict", str(tmp_path / "images"), "--out", str(tmp_path), "--model", model]) == 2
    assert f"{tmp_path}: labels in it is not of this command" in capsys.readouterr().err
    assert (tmp_path / "labels" / "one.png").read_bytes() == before


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """Three pictures of 64x48, one in an inner folder, for which the model answers blobs of all ten classes."""
    for index, name in enumerate(("a.png", "front/b.png", "c.bmp")):
        noise = np.random.default_rng(index).random((48, 64)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 5)
        ids = np.digitize(smooth, np.quantile(smooth, np.arange(0.1, 1.0, 0.1)))
        (tmp_path / "streets" / name).parent.mkdir(parents=True, exist_ok=True)
        red = (ids * 26 + 7).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "streets" / name), np.dstack([0 * red, 0 * red + 200, red]))
    return tmp_path / "streets"


@pytest.mark.parametrize("shape", ["mask", "polygon"])
@pytest.mark.parametrize(
    "name, place", [("cvat", "pre_labels.xml"), ("labelme", "pre_labels"), ("coco", "pre_labels.json")]
)
def test_what_an_annotator_gets_is_what_was_predicted(
    tmp_path: Path, streets: Path, model: str, name: str, place: str, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """predict -> pre-labels -> dataset convert gives the predicted ids back; polygons too, with every corner kept."""
    out = tmp_path / "out"
    command = ["predict", str(streets), "--out", str(out), "--model", model, "--pre-label", name, "--shape", shape]
    assert main([*command, "--tolerance", "0", "--least-pixels", "0"]) == 0
    assert f"{out / place}: 3 images, " in capsys.readouterr().out
    convert(out / place, tmp_path / "back", ConvertSettings(images=streets, to="driving"))
    back = open_dataset(DatasetSettings("folder", tmp_path / "back", mapping=str(tmp_path / "back/mapping.yaml")))
    assert len(back) == 3
    for index, file in enumerate(("a", "front/b", "c")):
        predicted = read(out / "labels" / f"{file}.png")
        assert set(np.unique(predicted).tolist()) == set(range(10))
        np.testing.assert_array_equal(back.load(sorted(("a", "b", "c")).index(Path(file).name)).labels, predicted)
        assert back.load(index).labels.shape == (48, 64)


def test_small_regions_are_left_to_the_annotator(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.full((48, 64, 3), 7, np.uint8)
    image[10:12, 20:23, 2], image[30, 40, 2], image[40:, :, 2] = 8 * 26 + 7, 4 * 26 + 7, 26 + 7
    assert cv2.imwrite(str(tmp_path / "one.png"), image)
    command = ["predict", str(tmp_path / "one.png"), "--out", str(tmp_path / "out"), "--model", model]
    assert main([*command, "--pre-label", "coco"]) == 0
    said = capsys.readouterr().out
    assert "pre_labels.json: 1 images, 2 shapes; 2 regions of under 20 pixels left out (7 pixels)" in said


def test_films_and_unknown_formats_make_no_annotations(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "mixed" / "one.png", 0)
    with VideoWriter(tmp_path / "mixed" / "drive.mp4", 10.0) as video:
        video.add(picture(0), 0.0)
    command = ["predict", str(tmp_path / "mixed"), "--out", str(tmp_path / "out"), "--model", model, "--pre-label"]
    assert main([*command, "cvat"]) == 2
    assert (
        "drive.mp4: annotations are made of images, and this is a video; 'seg-perception bag" in capsys.readouterr().err
    )
    assert main([*command, "yolo"]) == 2
    assert "no format 'yolo' to export; known: cvat, labelme, coco" in capsys.readouterr().err
    assert main([*command, "cvat", "--tolerance", "-1"]) == 2
    assert "tolerance: -1.0 is not in 0 to 100" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unusable_inputs_are_listed_and_the_rest_is_done(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "good.png", 0)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    names = ("bad.jpg", "good.png", "bad.mp4", "notes.txt", "empty", "missing.png")
    arguments = ["predict", *(str(tmp_path / name) for name in names), "--out", str(tmp_path / "out"), "--model", model]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "1 images" in captured.out
    assert "5 inputs could not be used" in captured.err
    for name in names:
        assert (name in captured.err.split("could not be used")[1]) == (name != "good.png")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["good.png"] * 5


@pytest.mark.parametrize(
    "options, message",
    [
        (["--opacity", "3"], "opacity 3.0 is not accepted: 0 (image only) to 1 (colors only) is"),
        (["--opacity", "nan"], "opacity nan is not accepted"),
        (["--threads", "-1"], "threads -1 is not accepted: 0 (all cores this process may use) to 256 is"),
        (["--input-size", "0x0"], "image size 0x0 is not accepted"),
        (["--out", "{tmp}/one.png"], "a folder to write into is needed"),
        (["--out", "{tmp}/one.png/below"], "Not a directory"),
    ],
)
def test_wrong_options_are_refused_before_the_first_picture(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    write_image(tmp_path / "one.png", 0)
    given = [option.format(tmp=tmp_path) for option in options]
    arguments = ["predict", str(tmp_path / "one.png"), "--out", str(tmp_path / "out"), "--model", model, *given]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("labels"))


def test_two_inputs_with_one_name_are_refused(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "same.png", 0)
    inputs = [str(tmp_path / folder / "same.png") for folder in ("a", "b")]
    assert main(["predict", *inputs, "--out", str(tmp_path / "out"), "--model", model]) == 2
    assert "would both be written as same: predict them apart" in capsys.readouterr().err


def test_a_video_gives_a_video_that_browsers_play(tmp_path: Path, model: str) -> None:
    with VideoWriter(tmp_path / "drive.mp4", fps=10.0) as video:
        for i in range(6):
            video.add(picture(i))
    arguments = ["predict", str(tmp_path / "drive.mp4"), "--out", str(tmp_path / "out"), "--model", model]
    assert main([*arguments, "--frames"]) == 0
    for name in ("drive_overlay.mp4", "drive_mask.mp4"):
        written = tmp_path / "out" / name
        content = written.read_bytes()
        assert content[4:8] == b"ftyp"
        assert content.index(b"moov") < content.index(b"mdat")  # the index comes first: plays while it loads
        assert b"avc1" in content  # H.264
        with VideoReader(written) as reader:
            assert reader.fps == 10.0
            assert sum(1 for _ in reader) == reader.announced_frames == 6
    assert len(list((tmp_path / "out" / "drive" / "labels").glob("*.png"))) == 6

    assert main([*arguments, "--gif"]) == 0
    assert (tmp_path / "out" / "drive_overlay.gif").read_bytes()[:6] == b"GIF89a"


def test_odd_sizes_grow_by_one_and_colors_survive(tmp_path: Path) -> None:
    frame = np.zeros((47, 63, 3), np.uint8)
    frame[:, :32] = (200, 40, 40)
    frame[:, 32:] = (40, 40, 200)
    with VideoWriter(tmp_path / "odd.mp4", fps=5.0) as video:
        for _ in range(3):
            video.add(frame)
    with VideoReader(tmp_path / "odd.mp4") as reader:
        frames = list(reader)
    assert len(frames) == 3
    assert Size.of(frames[0]) == Size(64, 48)
    # H.264 at this quality and 4:2:0 changes flat colors by a few gray levels
    np.testing.assert_allclose(frames[0][10, 10].astype(int), (200, 40, 40), atol=12)
    np.testing.assert_allclose(frames[0][10, 55].astype(int), (40, 40, 200), atol=12)


def test_frames_of_another_size_are_fitted_into_the_first_s_and_counted(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "sizes.mp4", fps=5.0) as video:
        video.add(np.full((48, 64, 3), 200, np.uint8))
        video.add(np.full((48, 32, 3), 200, np.uint8))  # half as wide: 16 black columns on each side
    assert video.fitted == 1
    with VideoReader(tmp_path / "sizes.mp4") as reader:
        first, second = reader
    assert first.min() > 180
    assert second[:, 20:44].min() > 180
    assert second[:, :12].max() < 20
    assert second[:, 52:].max() < 20


def test_a_video_keeps_real_time_whatever_the_rate_of_its_frames(tmp_path: Path) -> None:
    shades = {0.0: 40, 0.1: 80, 0.5: 120, 0.52: 160, 0.6: 200}  # seconds -> gray
    with VideoWriter(tmp_path / "times.mp4", fps=10.0) as video:
        for seconds, gray in shades.items():
            video.add(np.full((48, 64, 3), gray, np.uint8), 1_700_000_000 + seconds)
    with VideoReader(tmp_path / "times.mp4") as reader:
        shown = [round(float(frame.mean()) / 40) for frame in reader]
    # 0.0 one frame, 0.1 four, 0.5 none (superseded after 20 ms), 0.52 one, and the last one
    assert shown == [1, 2, 2, 2, 2, 4, 5]
    assert video.left_out == 1


def test_a_long_silence_is_shortened_and_said(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "silence.mp4", fps=2.0) as video:
        video.add(picture(0), 0.0)
        video.add(picture(1), 3600.0)
    assert video.frames == 21  # ten seconds, and the last
    assert video.shortened_s == 3590.0


def test_a_broken_video_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an RGB image must be uint8"):  # noqa: SIM117
        with VideoWriter(tmp_path / "a.mp4", fps=5.0) as video:
            video.add(np.zeros((47, 63, 3), np.uint8))
            video.add(np.zeros((47, 63), np.uint8))
    with pytest.raises(InputError, match="no frames for the video"), VideoWriter(tmp_path / "b.mp4", fps=5.0):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"is written as \.mp4 or \.gif"):
        VideoWriter(tmp_path / "c.avi", fps=5.0)


NAMES = ["a b", "#1?x=y&z %d %2e", "'quoted\"", "grün", "-dash", "a:b", os.fsdecode(b"latin\xe4"), "n" * 240]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_goes_in_and_out(
    name: str, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_image(Path(f"./{name}.png"), 0)
    with VideoWriter(Path(f"./{name}.mp4"), fps=10.0) as video:
        for i in range(2):
            video.add(picture(i))
    inputs = [f"./{name}.png", f"./{name}.mp4"]
    assert main(["predict", *inputs, f"--out=./{name[:200]}", "--model", model]) == 0
    assert "1 images, 1 videos with 2 frames" in capsys.readouterr().out
    out = folder / name[:200]
    assert (out / "labels" / f"{name}.png").is_file()
    assert (out / f"{name}_overlay.mp4").is_file()


@pytest.mark.parametrize("option", ["input", "--model", "--params-file"])
@pytest.mark.parametrize("place", ["/dev/zero", "{tmp}/pipe", "{tmp}"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    option: str, place: str, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    write_image(tmp_path / "one" / "one.png", 0)
    place = place.format(tmp=tmp_path)
    given = {"input": [place], "--model": [str(tmp_path / "one")], "--params-file": [str(tmp_path / "one")]}[option]
    options = ["--model", model] if option == "input" else [option, place]
    if option == "--params-file":
        options += ["--model", model]
    status = main(["predict", *given, "--out", str(tmp_path / "out"), *options])
    said = capsys.readouterr().err
    if option == "input" and place == str(tmp_path):
        assert status == 0  # a folder is an input; the pipe in it is named
        assert "1 that are no regular file (pipe)" in said
        return
    assert status in (1, 2)
    assert place in said


def test_what_a_folder_s_other_files_are_is_said(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    for name in ("a.BMP", "b.tif", "c.png"):
        write_image(folder / name, 0)
    for name in ("x.heic", "y.heic", "README", "._a.png", ".DS_Store", "notes.txt"):
        (folder / name).touch()
    assert main(["predict", str(folder), "--out", str(tmp_path / "out"), "--model", model]) == 0
    captured = capsys.readouterr()
    assert f"{tmp_path / 'out'}: 3 images" in captured.out
    listed = captured.err.split("left out, neither images nor videos: ")[1]
    assert listed.startswith(f"{folder}: 1 without an ending (README); 1 of type .txt (notes.txt); 2 of type .heic (x.")


def test_the_bar_keeps_no_text_of_a_video_behind(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "one.png", 0)
    with VideoWriter(tmp_path / "drive.mp4", fps=10.0) as video:
        for i in range(3):
            video.add(picture(i))
    inputs = [str(tmp_path / name) for name in ("drive.mp4", "one.png")]
    assert main(["predict", *inputs, "--out", str(tmp_path / "out"), "--model", model]) == 0
    last = capsys.readouterr().err.rstrip().splitlines()[-1].split("\r")[-1]
    assert "frame" not in last
    assert "2/2" in last


def test_a_window_needs_a_display(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tkinter", reason="Tk is not installed")
    monkeypatch.delenv("DISPLAY", raising=False)
    write_image(tmp_path / "one.png", 0)
    command = ["predict", str(tmp_path / "one.png"), "--out", str(tmp_path / "out"), "--model", model, "--show"]
    assert main(command) == 2
    assert "--show needs a display, and there is none to use (DISPLAY: none)" in capsys.readouterr().err


def test_a_calibrated_camera_also_draws_the_ground_from_above(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "one.png", 0)
    with VideoWriter(tmp_path / "drive.mp4", 10) as film:
        for index in range(3):
            film.add(picture(index))
    calibration = tmp_path / "front.yaml"
    calibration.write_text(
        "image_width: 64\nimage_height: 48\ndistortion_model: plumb_bob\n"
        "camera_matrix: {rows: 3, cols: 3, data: [50, 0, 32, 0, 50, 24, 0, 0, 1]}\n"
        "distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}\n"
    )
    out = tmp_path / "out"
    inputs = [str(tmp_path / "one.png"), str(tmp_path / "drive.mp4")]
    arguments = ["predict", *inputs, "--out", str(out), "--model", model, "--camera", str(calibration)]
    assert main(arguments) == 2
    assert "a view from above needs the camera's height over the ground" in capsys.readouterr().err
    assert main([*arguments, "--height", "1.5"]) == 0
    bird = read(out / "bird" / "one.png")
    assert bird.shape == (800, 808, 3)  # image, line and grid, 40 m by 20 m, two pixels a cell of 0.1 m
    assert bird[:, :400].any()
    with VideoReader(out / "drive_bird.mp4") as made:
        assert sum(1 for _ in made) == 3
    wide = tmp_path / "wide.yaml"
    wide.write_text(calibration.read_text().replace("image_width: 64", "image_width: 128"))
    arguments = ["predict", inputs[0], "--out", str(tmp_path / "no"), "--model", model, "--camera", str(wide)]
    assert main([*arguments, "--height", "1.5"]) == 1
    assert "camera_info is of 128x48 images and the image is 64x48" in capsys.readouterr().err
    assert main(["predict", inputs[0], "--out", str(out), "--model", model, "--height", "1.5"]) == 2


def test_a_video_that_ffmpeg_cannot_finish_is_an_error(tmp_path: Path) -> None:
    """As on a full disk: no file may grow beyond 2,000 bytes, which ffmpeg learns from the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    frames = np.random.default_rng(1).integers(0, 256, (3, 96, 128, 3), np.uint8)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(InputError, match=r"x\.mp4: ffmpeg failed"), VideoWriter(tmp_path / "x.mp4", 10) as video:
            for frame in frames:
                video.add(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
