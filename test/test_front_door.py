"""`import seg_perception as sp`: what the first lines of a user's program do."""

from __future__ import annotations

import contextlib
import http.server
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import START, STEP, drivable_of, picture, truth_of, write_bag, write_tiny_model

import seg_perception as sp
from seg_perception.cli.main import build_parser
from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.files import share_path
from seg_perception.core.image_file import decode_labels
from seg_perception.core.types import Size
from seg_perception.datasets.convert.exporting import ShapeKind
from seg_perception.engines.base import BuildEngine
from seg_perception.export.importing import Color, Kind, Layout
from seg_perception.video import VideoReader, VideoWriter


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels = red // 26, confidence = green; a 64x48 picture is the network's own size, so the answer is exact."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import seg_perception; dir(seg_perception)\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} & "
        "{'cv2', 'numpy', 'torch', 'onnx', 'onnxruntime', 'yaml', 'rclpy', 'rosbags', 'tqdm'}))"
    )
    assert run_python(code) == "[]"


def test_every_public_name_is_there_with_a_docstring() -> None:
    assert set(sp.__all__) <= set(dir(sp))
    for name in sp.__all__:
        value = getattr(sp, name)
        assert value.__doc__, name
        if name not in ("export", "__version__"):
            assert getattr(value, "__module__", "").startswith("seg_perception"), name
    with pytest.raises(AttributeError, match="module 'seg_perception' has no attribute 'lod'"):
        getattr(sp, "lod")  # noqa: B009


FUNCTIONS = {
    "average": "average",
    "bag evaluate": "score_bag",
    "bag info": "bag_info",
    "bag make": "make_bag",
    "bag play": "play_bag",
    "bag process": "process_bag",
    "bag record": "record_bag",
    "bag recover": "recover_bag",
    "bag select": "select_frames",
    "benchmark": "benchmark",
    "calibrate": "calibrate",
    "compile": "compile",
    "dataset check": "check_dataset",
    "dataset convert": "convert_dataset",
    "dataset export": "export_labels",
    "dataset kinds": "DatasetSettings",
    "demo": "demo",
    "evaluate": "evaluate",
    "export": "export",
    "import": "import_model",
    "inspect": "inspect",
    "node diagnostics": "remote_node",
    "node echo": "remote_node",
    "node get": "remote_node",
    "node set": "remote_node",
    "node state": "remote_node",
    "predict": "predict",
    "report": "report",
    "scenes": "draw_scenes",
    "train": "train",
    "view": "serve_page",
}


def test_what_a_command_does_python_does_with_one_name() -> None:
    assert set(FUNCTIONS) == {" ".join(names) for names, _ in build_parser().commands()}
    assert set(FUNCTIONS.values()) <= set(sp.__all__)


def test_export_is_a_function_whatever_was_imported_before() -> None:
    # importing a room binds its name in the package: it would replace a function of the same name
    assert {module.name for module in pkgutil.iter_modules(sp.__path__)} & set(sp.__all__) == {"export"}
    for first in ("", "import seg_perception.export.to_onnx"):
        code = f"{first}\nimport seg_perception as sp; print(callable(sp.export), callable(sp.evaluate), sp.compile)"
        assert run_python(code).startswith("True True <function compile ")


MISSING = """
import sys
for name in ("torch", "rclpy", "rosbags", "jinja2"):
    sys.modules[name] = None
import seg_perception as sp
for call in (
    lambda: sp.train({"name": "x", "train": []}), lambda: sp.export("a", "b"), lambda: sp.demo("out"),
    lambda: sp.BagReader, lambda: list(sp.load(sys.argv[1]).stream(sys.argv[2])), lambda: sp.report(["runs"]),
):
    try:
        call()
    except sp.SegPerceptionError as error:
        assert isinstance(error, ModuleNotFoundError) and error.name
        print(error)
"""


def test_a_missing_package_is_named_with_its_extra(tiny: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "in.mcap", [picture(0)])
    done = subprocess.run(
        [sys.executable, "-c", MISSING, tiny, bag], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    expected = (
        ("torch", "train"),
        ("torch", "train"),
        ("rclpy", "ros"),
        *2 * (("rosbags", "bags"),),
        ("jinja2", "train"),
    )
    for line, (package, extra) in zip(done.stdout.splitlines(), expected, strict=True):
        said = f"this needs the package '{package}', which is not installed: pip install 'seg_perception[{extra}]'"
        assert line.removesuffix(", or source a ROS 2") == said


def test_functions_go_to_other_processes() -> None:
    for function in (sp.predict, sp.compile, sp.inspect):  # the names of two differ from those where they are written
        assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("kind", ["path", "text", "array", "view", "pil", "pil gray"])
def test_an_image_in_any_form(kind: str, tiny: Path, tmp_path: Path) -> None:
    image = picture(3)
    if kind == "pil gray":
        image = np.repeat(image[..., :1], 3, axis=2)
    file = tmp_path / "street & co #3 ä.png"
    Image.fromarray(image).save(file)
    given = {
        "path": file,
        "text": str(file),
        "array": image,
        "view": np.repeat(image, 2, axis=1)[:, ::2],
        "pil": Image.fromarray(image),
        "pil gray": Image.fromarray(image[..., 0]),
    }[kind]
    with sp.load(tiny, threads=1) as model:
        result = model(given)
    np.testing.assert_array_equal(result.labels, truth_of(image))
    np.testing.assert_array_equal(result.confidence, image[..., 1])
    np.testing.assert_array_equal(result.drivable, drivable_of(image))
    np.testing.assert_array_equal(result.image, image)
    assert result.size == Size(64, 48)
    assert result.name == ("street & co #3 ä" if kind in ("path", "text") else "image")
    assert result.stamp_ns is None


def test_a_turned_photo_is_upright(tiny: Path, tmp_path: Path) -> None:
    photo = Image.fromarray(np.ascontiguousarray(np.rot90(picture(0), 1)))  # taken with the camera on its side
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    photo.save(tmp_path / "turned.png", exif=exif)
    with sp.load(tiny, threads=1) as model:
        for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
            np.testing.assert_array_equal(model(given).labels, truth_of(picture(0)))


@pytest.mark.parametrize(
    "given, message",
    [
        (np.zeros((4, 4, 3), np.float32), r"uint8 \[H, W, 3\] in RGB order \(not OpenCV's BGR\), got float32"),
        (np.zeros((4, 4), np.uint8), r"got uint8 \[4, 4\]; for a gray image, np.repeat"),
        (np.zeros((4, 4, 4), np.uint8), r"leave the alpha channel out, image\[..., :3\]"),
        (np.zeros((3, 4, 5), np.uint8), r"channels come last, np.moveaxis\(image, 0, -1\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"for several images, model.batch"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \[0, 4, 3\]"),
        (b"\x89PNG", "a bytes is not accepted as an image: a path, a uint8"),
        (None, "a NoneType is not accepted as an image"),
        (Image.new("F", (4, 4)), "a PIL image of mode F is not accepted"),
        ("{tmp}", r"is a folder, not an image: use model.stream\("),
        ("http://host/street.jpg", r"is a URL, not an image: use model.stream\("),
        ("{tmp}/notes.txt", "not an image, a video or a bag by its ending"),
        ("/dev/zero", "/dev/zero: not a regular file"),
    ],
)
def test_what_is_no_image_is_refused_in_words(given: object, message: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with sp.load(tiny, threads=1) as model, pytest.raises(sp.InputError, match=message):
        model(given.format(tmp=tmp_path) if isinstance(given, str) else given)


def test_a_missing_file_stays_a_missing_file(tiny: Path) -> None:
    with sp.load(tiny, threads=1) as model, pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        model("nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx"):
        sp.load("nowhere.onnx")
    with pytest.raises(sp.InputError, match="/dev/zero: not a regular file"):
        sp.load("/dev/zero")


@pytest.mark.parametrize("size", ["32x16", (32, 16), Size(32, 16)])
def test_the_network_s_size_can_be_chosen(size: str | tuple[int, int] | Size, tiny: Path) -> None:
    with sp.load(tiny, threads=1, size=size) as model:
        assert Size.of(model.segmenter.prepare(picture(0)).pixels) == Size(32, 16)
        assert model(picture(0)).size == Size(64, 48)
        assert "input size 32x16" in model.identity


@pytest.mark.parametrize("size", [(32,), (32.0, 16.0), 32, "32"])
def test_a_malformed_size_is_refused(size: object, tiny: Path) -> None:
    with pytest.raises(sp.InputError, match=r"size .* is not accepted"):
        sp.load(tiny, size=size)


def test_a_closed_model_says_so(tiny: Path) -> None:
    with sp.load(tiny, threads=1) as model:
        pass
    model.close()
    with pytest.raises(sp.EngineError, match="this model is closed"):
        model(picture(0))


def test_engines_and_segmenters_close_themselves(tiny: Path) -> None:
    with sp.open_engine(tiny, "onnxruntime", 1) as engine, sp.Segmenter(engine) as segmenter:
        np.testing.assert_array_equal(segmenter.segment(picture(1)).labels, truth_of(picture(1)))


def test_several_cameras_are_one_batch_in_order(tiny: Path) -> None:
    images = [picture(0), picture(1, Size(128, 96)), picture(2)]
    with sp.load(tiny, threads=1) as model:
        results = model.batch(images)
        assert [result.size for result in results] == [Size(64, 48), Size(128, 96), Size(64, 48)]
        for image, result in zip(images, results, strict=True):
            np.testing.assert_array_equal(result.labels, model(image).labels)
        assert model.batch([]) == []
        with pytest.raises(sp.InputError, match="batch takes a list of images"):
            model.batch(picture(0))


def test_pictures_shares_and_files(tiny: Path, tmp_path: Path) -> None:
    with sp.load(tiny, threads=1) as model:
        result = model(picture(0))
    # 64 columns, ten labels: column c has label c * 10 // 64, so labels 0, 3, 5 and 8 have six columns or seven
    columns = np.bincount(np.arange(64) * 10 // 64)
    assert result.shares() == {c.name: columns[c.id] / 64 for c in result.label_set.classes}
    colors = result.colors()
    assert tuple(colors[0, 0]) == result.label_set.classes[0].color
    assert result.overlay().shape == (48, 64, 3)
    np.testing.assert_array_equal(result.overlay(opacity=0, border=False), picture(0))
    np.testing.assert_array_equal(result.overlay(opacity=1, border=False), colors)
    assert result.overlay(legend=True).shape[0] > 48
    with pytest.raises(sp.InputError, match="opacity 2 is not accepted"):
        result.overlay(2)
    written = result.named("front/7").save(tmp_path)
    assert sorted(written) == ["colors", "confidence", "drivable", "labels", "overlay"]
    assert written["labels"] == tmp_path / "labels" / "front" / "7.png"
    np.testing.assert_array_equal(decode_labels(written["labels"].read_bytes(), "labels"), result.labels)
    np.testing.assert_array_equal(cv2.imread(str(written["colors"]))[..., ::-1], colors)


def test_what_a_prompt_and_a_notebook_show_of_it(tiny: Path) -> None:
    with sp.load(tiny) as model:
        result, again = model(picture(0)), model(picture(0))
        assert repr(model) == f"<Model {model.description}>"
    assert repr(model).endswith(", closed>")
    percent = {
        name: f"{name} {100 * (result.labels == i).mean():.1f} %" for i, name in enumerate(result.label_set.names)
    }
    shown = repr(result)
    assert shown.startswith("<Result of array, 64x48: ")
    assert all((percent[name] in shown) == (share > 0) for name, share in result.shares().items())
    assert shown.endswith(f"; drivable {100 * (drivable_of(picture(0)) == 255).mean():.1f} %>")
    shown_picture = cv2.imdecode(np.frombuffer(result._repr_png_(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.array_equal(shown_picture, result.overlay(legend=True))
    assert result != again  # as `==` of arrays has no one answer, each equals itself only
    assert len({result, again}) == 2


def test_a_folder_streams_in_the_order_of_names_and_leaves_nothing_out_silently(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for index, name in enumerate(("a.png", "a.BMP", "b/c.webp", "d.tif", "._a.png")):
        Image.fromarray(picture(index)).save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    faults: list[str] = []
    with sp.load(tiny, threads=1) as model:
        results = list(model.stream(tmp_path, on_fault=faults.append))
        with pytest.raises(sp.InputError, match=r"bad\.jpg"):
            list(model.stream(tmp_path))
    # a.BMP and a.png would have one name without their endings
    assert [result.name for result in results] == ["a.BMP", "a.png", "b/c", "d"]
    for result, index in zip(results, (1, 0, 2, 3), strict=True):
        np.testing.assert_array_equal(result.labels, truth_of(picture(index)))
    assert len(faults) == 1
    assert "bad.jpg" in faults[0]


def test_a_bag_streams_with_its_stamps(tiny: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "run #3 ä.mcap", [picture(i) for i in range(3)])
    with sp.load(tiny, threads=1) as model:
        results = list(model.stream(bag))
        assert [result.stamp_ns for result in results] == [START + i * STEP for i in range(3)]
        assert [result.source for result in results] == [f"{bag}:/image"] * 3
        for i, result in enumerate(results):
            np.testing.assert_array_equal(result.labels, truth_of(picture(i)))
        with pytest.raises(sp.InputError, match="no topic '/front'; it has: /image"):
            list(model.stream(bag, topic="/front"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "drive 100% & co.mp4"
    with VideoWriter(path, fps=10.0) as writer:
        for i in range(4):
            writer.add(picture(i))
    return path


def test_a_video_streams_with_times_and_a_filter_over_time(tiny: Path, video: Path) -> None:
    filtered = DrivableSettings(appear_frames=3)
    with sp.load(tiny, threads=1, drivable=filtered) as model:
        results = list(model.stream(video))
        assert [result.stamp_ns for result in results] == [0, 100_000_000, 200_000_000, 300_000_000]
        assert [result.name for result in results] == ["000000", "000001", "000002", "000003"]
        assert not results[0].drivable.any()  # waits for three frames in a row
        assert model(results[0].image).drivable.any()  # a single picture has no past to wait for
        with pytest.raises(sp.InputError, match=r"a topic .* goes with a bag"):
            list(model.stream(video, topic="/image"))


def test_a_url_streams(tiny: Path, video: Path) -> None:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(video.parent))
    (video.parent / "drive.mp4").write_bytes(video.read_bytes())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/drive.mp4"
            with sp.load(tiny, threads=1) as model:
                results = list(model.stream(address))
                with pytest.raises(sp.InputError, match="no video at this address"):
                    list(model.stream(f"http://127.0.0.1:{server.server_port}/none.mp4"))
                with pytest.raises(sp.InputError, match="a URL with characters that no URL has"):
                    list(model.stream("http://127.0.0.1/\udcff.mp4"))  # a byte of a shell that is no text
        finally:
            server.shutdown()
            thread.join()
    assert len(results) == 4
    assert results[0].source == address


class MotionJpeg(http.server.BaseHTTPRequestHandler):
    """A camera on the network: JPEGs without an end, as fast as they are taken."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = cv2.imencode(".jpg", picture(0)[..., ::-1])[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
        with contextlib.suppress(OSError):  # the reader has gone
            while True:
                self.wfile.write(head + jpeg + b"\r\n")
                time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def camera() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/front"
        server.shutdown()
        thread.join()


def test_a_live_stream_gives_its_newest_frame_and_counts_those_in_between(camera: str) -> None:
    with VideoReader(camera) as reader:
        assert reader.is_live
        frames = reader.frames()
        before = next(frames)
        for _ in range(3):
            time.sleep(0.3)  # a slow model; dozens of frames come meanwhile
            asked, frame = time.time(), next(frames)
            assert frame.seconds > before.seconds
            assert frame.seconds > asked - 0.3  # not the next one in a queue
            before = frame
        frames.close()
        assert reader.superseded > 3


def test_predicting_a_live_stream_ends_at_the_limit_or_when_asked(camera: str, tiny: Path, tmp_path: Path) -> None:
    report = sp.predict(camera, tmp_path / "limit", tiny, threads=1, limit=3)
    assert (report.films, report.film_frames, report.faults, report.interrupted) == (1, 3, [], False)
    for name in ("front_overlay.mp4", "front_mask.mp4"):
        assert (tmp_path / "limit" / name).is_file()
    stop = threading.Event()
    report = sp.predict(camera, tmp_path / "stop", tiny, threads=1, stop=stop, on_step=lambda _: stop.set())
    assert (report.film_frames, report.interrupted, report.live) == (1, True, True)
    assert (tmp_path / "stop" / "front_overlay.mp4").is_file()


def test_a_camera_that_is_not_there(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no file is called 99
    with sp.load(tiny, threads=1) as model:
        for source in (99, "99"):
            with pytest.raises(sp.InputError, match=r"camera 99: there is no such camera"):
                list(model.stream(source))
        for source in (-1, 100, 10**20):  # OpenCV crashes on -1, and takes 700 for a backend's number
            with pytest.raises(sp.InputError, match=f"camera {source}: a camera's index is 0 to 99"):
                list(model.stream(source))


def test_predict_in_python_is_the_command(tiny: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "one.png")
    with sp.load(tiny, threads=1) as model:
        report = sp.predict(tmp_path / "one.png", tmp_path / "out", model)
        assert model(picture(0)).labels.any()  # a model that was given stays open
    assert (report.images, report.films, report.faults) == (1, 0, [])
    assert (tmp_path / "out" / "overlay" / "one.png").is_file()


def test_process_bag_in_python_is_the_command(tiny: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "in.mcap", [picture(0), picture(1)])
    report = sp.process_bag(str(bag), str(tmp_path / "out.mcap"), model=tiny)
    assert report.frames == 2
    with sp.load(tiny, threads=1) as model:
        assert len(list(model.stream(tmp_path / "out.mcap", topic="/segmentation_node/overlay"))) == 2


def test_bag_info_in_python_is_the_command(tmp_path: Path) -> None:
    info = sp.bag_info(str(write_bag(tmp_path / "in.mcap", [picture(0), picture(1)], truths=[truth_of(picture(0))])))
    assert isinstance(info, sp.BagInfo)
    assert {topic.name: topic.count for topic in info.topics} == {"/image": 2, "/truth": 1}
    assert (info.messages, info.start_ns, info.end_ns, info.notes) == (3, START, START + STEP, ())
    assert info.text().splitlines()[0] == f"{tmp_path / 'in.mcap'}: 3 messages, 0.067 s"
    with pytest.raises(FileNotFoundError):
        sp.bag_info(tmp_path / "none.mcap")


def test_serve_page_in_python_is_the_command(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the page's server is not installed")
    bag = write_bag(tmp_path / "in.mcap", [picture(0), picture(1)])
    pages = []

    def look(url: str) -> None:
        with urllib.request.urlopen(url, timeout=20) as answer:
            pages.append((url, answer.status, answer.read()))

    assert sp.serve_page(bag, model=tiny, threads=1, loop=False, on_url=look) == 2
    ((url, status, page),) = pages
    assert url.startswith("http://127.0.0.1:")
    assert status == 200
    assert b"app.js" in page
    stopped = threading.Event()
    stopped.set()
    assert sp.serve_page(bag, model=tiny, threads=1, stop=stopped, on_url=lambda _: None) == 0


def test_evaluate_in_python_is_the_command(tmp_path: Path) -> None:
    scenes = sp.DatasetSettings("scenes", split="val", count=2, size=Size(96, 64))
    content = sp.evaluate(scenes, json=tmp_path / "scores.json", threads=2)
    assert len(content.evaluations) == 1
    assert len(content.evaluations[0].images) == 2
    assert (tmp_path / "scores.json").is_file()
    with pytest.raises(sp.SettingsError, match="no dataset: at least one"):
        sp.evaluate([])


def test_plain_texts_do_for_paths_sizes_and_choices(tiny: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "in.mcap", [picture(0)])
    with sp.BagReader(str(bag)) as opened:
        assert opened.topic("/image").count == 1
    assert cv2.imwrite(str(tmp_path / "mask.png"), np.full((2, 2), 255, np.uint8))
    with sp.load(tiny, drivable=sp.DrivableSettings(ignore_mask=str(tmp_path / "mask.png"))) as model:
        assert not model(picture(0)).drivable.any()
    with sp.open_engine(str(tiny)) as engine:
        assert sp.Segmenter(engine, (96, 64)).segment(picture(0)).labels.shape == picture(0).shape[:2]
    options = sp.EngineOptions(precision="int8", size="96x64", cache="engines")
    assert (options.precision, options.size, options.cache) == ("int8", Size(96, 64), Path("engines"))
    assert sp.BuildSettings(camera_size="96x64", camera_encoding="nv12").camera_size == Size(96, 64)
    assert sp.DatasetSettings("folder", "data", mapping="identity", size="96x64").root == Path("data")
    request = sp.ImportRequest(layout="nhwc", color="bgr", kind="labels", size="96x64")
    assert request == sp.ImportRequest(layout=Layout.NHWC, color=Color.BGR, kind=Kind.LABELS, size=Size(96, 64))
    assert sp.EngineOptions(build_engine="never").build_engine is BuildEngine.NEVER
    assert sp.DrivableSettings(classes="road").classes == ("road",)
    assert sp.ProcessSettings(images="/image", outputs=["labels"]).images == ("/image",)
    assert sp.ImportRequest(mean=0.5, std=[0.2, 0.2, 0.2]).mean == (0.5,)
    assert sp.ShapeSettings("mask") == sp.ShapeSettings(ShapeKind.MASK)
    with pytest.raises(sp.InputError, match="kind 'circle' is not one of polygon, mask"):
        sp.ShapeSettings("circle")
    classes = share_path("config/labels/driving.yaml")
    with pytest.raises(sp.InputError, match="/labels"):
        sp.score_bag(bag, "/labels", "/truth", classes)


@pytest.mark.parametrize(
    "kind, value, accepted",
    [
        ("EngineOptions", {"threads": "2"}, "a whole number"),
        ("EngineOptions", {"threads": 2.0}, "a whole number"),
        ("EngineOptions", {"cuda_graph": "no"}, "True or False"),  # in a condition it would be true
        ("DrivableSettings", {"min_confidence": True}, "a number"),
        ("DrivableSettings", {"connected_to_ego": 1}, "True or False"),
        ("DemoSettings", {"frames": "3"}, "a whole number"),
        ("EvaluationOptions", {"band": None}, "a whole number"),
        ("ViewSettings", {"port": "8400"}, "a whole number"),
    ],
)
def test_values_of_another_type_are_refused_in_words(kind: str, value: dict[str, object], accepted: str) -> None:
    ((name, given),) = value.items()
    with pytest.raises(sp.InputError, match=re.escape(f"{name} {given!r} is not accepted: {accepted} is")):
        getattr(sp, kind)(**value)


def test_settings_in_another_s_place_are_refused(tiny: Path) -> None:
    with pytest.raises(sp.InputError, match="drivable 'road' is not accepted: a DrivableSettings is"):
        sp.load(tiny, drivable="road")
    with pytest.raises(sp.InputError, match=r"options \{\} is not accepted: a EngineOptions is"):
        sp.load(tiny, options={})


def test_the_calls_say_what_they_take() -> None:
    for name in ("load", "predict", "evaluate", "train", "calibrate", "compile", "process_bag"):
        for parameter in inspect.signature(getattr(sp, name)).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty
