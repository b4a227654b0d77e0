"""A against B: numbers worked out by hand, the page, and the gate."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import picture, write_bag, write_tiny_model

import seg_perception as sp
from seg_perception.cli.main import main
from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import InputError
from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.evaluation import Evaluation
from seg_perception.evaluation.comparison import ComparedFrame, Contestant, compare, metric_names
from seg_perception.evaluation.comparison_report import write_comparison
from seg_perception.evaluation.counts import PixelCounts
from seg_perception.evaluation.files import EvaluationFile, write_evaluations
from seg_perception.evaluation.gate import Condition, class_metrics
from seg_perception.evaluation.intervals import Interval
from seg_perception.segmenter import Segmenter

ROAD, SKY = 0, 7


class Turned:
    """A segmenter whose answer on a frame is what the frame's blue channel says where A's is the red channel's."""

    def __init__(self, segmenter: sp.Segmenter) -> None:
        self._segmenter = segmenter
        self.card = segmenter.card

    def segment(self, image: np.ndarray) -> sp.Segmentation:
        return self._segmenter.segment(np.ascontiguousarray(image[..., ::-1]))


@pytest.fixture
def frame(rows):
    """Call it with four labels each of truth, A and B, one for each row of eight pixels."""

    def make(name: str, truth: list[int] | None, a: list[int], b: list[int], stamp: int | None = None) -> ComparedFrame:
        image = np.dstack([rows(*a), np.full((4, 8), 255, np.uint8), rows(*b)])
        return ComparedFrame(name, image, None if truth is None else rows(*truth), stamp)

    return make


@pytest.fixture
def sides(echo_segmenter):
    segmenter = echo_segmenter()
    return (
        Contestant("red", segmenter, DrivableSettings()),
        Contestant("blue", Turned(segmenter), DrivableSettings()),  # type: ignore[arg-type]
    )


def test_scores_and_differences_by_hand(frame, sides) -> None:
    frames = [
        frame("same", [SKY, SKY, ROAD, ROAD], [SKY, SKY, ROAD, ROAD], [SKY, SKY, ROAD, ROAD]),
        frame("b wrong", [SKY, SKY, ROAD, ROAD], [SKY, SKY, ROAD, ROAD], [SKY, ROAD, ROAD, ROAD]),
    ]
    found = compare("two", frames, *sides)
    # rows of eight pixels: A is right everywhere; B calls one of four sky rows road
    assert found.a.iou()[ROAD] == found.a.iou()[SKY] == 1.0
    assert found.b.iou()[SKY] == 3 / 4
    assert found.b.iou()[ROAD] == 4 / 5
    assert math.isnan(found.b.iou()[1])  # sidewalk is not in the truth
    assert found.agreement == (1.0, 3 / 4)
    assert found.b.mask == [(16, 0, 0), (16, 8, 0)]  # right, wrong, missing
    assert found.b.mask_iou() == 32 / 40
    difference = found.class_differences()["sky"]
    assert difference.value == pytest.approx(-0.25)
    assert math.isnan(difference.low)  # of two frames: every second difference would look sure
    assert not difference.is_sure
    metrics = found.metrics()
    assert metrics["sky_iou"] == 75.0
    assert metrics["a_sky_iou"] == 100.0
    assert metrics["diff_road_iou"] == pytest.approx(-20.0)
    assert metrics["mean_iou"] == pytest.approx(77.5)
    assert metrics["agreement"] == 87.5
    assert math.isnan(metrics["sidewalk_iou"])
    assert list(metrics) == metric_names(found.label_set, has_truth=True)
    with pytest.raises(InputError, match="two has no value of sidewalk_iou, none of it is in the images"):
        Condition.parse("sidewalk_iou < 5").holds(metrics, "two")
    assert [shown.name for shown in found.gallery] == ["b wrong"]  # B is nowhere else worse
    assert found.gallery[0].caption == (
        "mean IoU A 100.00 % (mask 100.00 %), B 58.33 % (mask 66.67 %); "  # sky 1 of 2 rows, road 2 of 3
        "same label on 75.0 % of the pixels, same mask on 75.0 %"
    )
    assert found.timeline == ()


@pytest.mark.parametrize("truth", [None, [SKY, SKY, ROAD, ROAD]])
def test_settings_that_change_the_mask_alone_are_seen(frame, sides, truth: list[int] | None) -> None:
    red, nothing = sides[0], Contestant("red", sides[0].segmenter, DrivableSettings(("car",)))
    found = compare("one", [frame("mask", truth, [SKY, SKY, ROAD, ROAD], [SKY] * 4)], red, nothing)
    assert found.agreement == (1.0,)
    assert [shown.name for shown in found.gallery] == ["mask"]
    assert "same mask on 50.0 %" in found.gallery[0].caption


def test_a_difference_in_every_frame_is_sure_from_ten_frames_on(frame, sides) -> None:
    frames = [frame(str(i), [SKY, SKY, ROAD, ROAD], [SKY, SKY, ROAD, ROAD], [SKY, ROAD, ROAD, ROAD]) for i in range(10)]
    difference = compare("ten", frames, *sides).class_differences()["sky"]
    assert (difference.value, difference.low, difference.high) == (-0.5, -0.5, -0.5)
    assert difference.is_sure
    nine = compare("nine", frames[:9], *sides)
    assert not nine.class_differences()["sky"].is_sure
    assert not nine.mean_difference().is_sure
    assert not nine.mask_difference().is_sure
    # of a hundred frames, one with poles: whatever B does there, B does in all frames that have them
    without = frame("without", [SKY, SKY, ROAD, ROAD], [SKY, SKY, ROAD, ROAD], [SKY, SKY, ROAD, ROAD])
    one = frame("one", [SKY, 2, ROAD, ROAD], [SKY, 2, ROAD, ROAD], [SKY, SKY, ROAD, ROAD])
    rare = compare("rare", [*[without] * 99, one], *sides).class_differences()["pole"]
    assert (rare.value, rare.is_sure) == (-1.0, False)


def test_few_frames_make_wide_intervals() -> None:
    # the tail of n frames is that of the normal distribution at Student's point x sqrt(n / (n - 1)):
    # 10: 2.2622 x 1.0541 = 2.3845, 0.855 %; 100: 1.9842 x 1.0050 = 1.9942, 2.307 %
    values = np.arange(100_001.0)
    for frames, low in ((10, 855.0), (100, 2307.0)):
        interval = Interval.of(5.0, values, frames)
        assert interval.low == pytest.approx(low, abs=1.0)
        assert interval.high == pytest.approx(100_000 - low, abs=1.0)


def test_without_truth_b_is_measured_against_a(frame, sides) -> None:
    frames = [
        frame(str(i), None, [SKY, SKY, ROAD, ROAD], [SKY, ROAD, ROAD, ROAD], stamp=i * 100_000_000) for i in range(3)
    ]
    found = compare("film", frames, *sides, timeline=2, announced=3)
    assert not found.has_truth
    assert found.class_agreement()["sky"].value == 0.5
    assert found.metrics()["road_iou"] == pytest.approx(200 / 3)
    assert list(found.metrics()) == metric_names(found.label_set, has_truth=False)
    assert "a_road_iou" not in found.metrics()
    assert found.a.free_ahead == [0.5] * 3  # the mask fills the lower two of four rows
    assert found.b.drivable_share == [0.75] * 3
    assert [shown.index for shown in found.timeline] == [0, 1]
    assert found.timeline[0].panels == ("image", "A", "B", "A and B differ (red)")


def test_what_cannot_be_compared_is_refused(frame, sides, echo_segmenter) -> None:
    with pytest.raises(InputError, match="nothing: there are no frames"):
        compare("nothing", [], *sides)
    with pytest.raises(InputError, match="second: some frames have truth and some have none"):
        compare("mixed", [frame("first", [0] * 4, [0] * 4, [0] * 4), frame("second", None, [0] * 4, [0] * 4)], *sides)
    other = Contestant("other", echo_segmenter("camvid11"), DrivableSettings())
    with pytest.raises(InputError, match="A and B have different classes"):
        compare("classes", [], sides[0], other)


def test_the_page_stands_alone_and_shows_names_as_text(frame, sides, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    frames = [frame(f"{evil}{i}", None, [SKY, SKY, ROAD, ROAD], [SKY, ROAD, 0, 0], stamp=i) for i in range(3)]
    write_comparison(tmp_path / "film.html", [compare(f"{evil}&", frames, *sides)])
    text = (tmp_path / "film.html").read_text(encoding="utf-8")
    assert evil not in text
    assert text.count("<script>") == 1
    assert not re.search(r"<link|<iframe|@import|url\(|src=\"(?!data:)", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    track = re.search(r'data-track="([^"]+)"', text)
    assert track is not None
    drawn = json.loads(track[1].replace("&#34;", '"'))
    assert drawn["frames"] == 3
    assert drawn["curves"][0]["a"] == [50.0] * 3  # percent of the image that is drivable
    assert drawn["curves"][0]["b"] == [75.0] * 3


def test_several_datasets_begin_with_all_in_one_table(frame, sides, tmp_path: Path) -> None:
    right, wrong = [SKY, SKY, ROAD, ROAD], [SKY, ROAD, ROAD, ROAD]
    found = [compare(name, [frame("f", right, right, b)], *sides) for name, b in (("one", right), ("two", wrong))]
    write_comparison(tmp_path / "page.html", found)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    overview = text[: text.index('<section id="part-1">')]
    # sky 1/2 and road 2/3 instead of 1: a mean of 58.33
    assert ">58.33<" not in overview.partition('href="#part-2"')[0]
    assert ">-41.67<" in overview.partition('href="#part-2"')[2]
    assert overview.count("<td>fewer than 10 frames</td>") == 4


def test_what_rounds_to_zero_is_no_difference() -> None:
    assert not Interval(-0.0002, -0.0004, -0.00004).is_sure  # -0.04 to 0.00 percent
    assert Interval(-0.0002, -0.0004, -0.00006).is_sure


@pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="no Chromium here: apt install chromium chromium-driver",
)
def test_a_click_on_the_timeline_shows_the_nearest_frame(frame, sides, tmp_path: Path) -> None:
    pytest.importorskip("selenium", reason="selenium is not installed")
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    frames = [frame(f"f{i}", None, [SKY, SKY, 0, 0], [SKY, 0, 0, 0], stamp=i * 100_000_000) for i in range(11)]
    write_comparison(tmp_path / "film.html", [compare("film", frames, *sides, timeline=6, announced=12)])
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,900",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run",
                     f"--user-data-dir={tmp_path / 'profile'}"):  # fmt: skip
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get((tmp_path / "film.html").as_uri())

        def shown() -> list[str]:
            figures = driver.find_elements(By.CSS_SELECTOR, ".viewer figure")
            return [figure.get_attribute("data-frame") for figure in figures if figure.is_displayed()]

        assert shown() == ["0"]
        curve = driver.find_element(By.CSS_SELECTOR, ".timeline svg")
        assert len(curve.find_elements(By.CSS_SELECTOR, "path")) == 2
        ActionChains(driver).move_to_element(curve).click().perform()  # the middle, frame 5: 4 and 6 were kept
        assert shown() in (["4"], ["6"])
        driver.find_element(By.CSS_SELECTOR, ".on").click()
        assert shown() in (["6"], ["8"])
        assert driver.find_element(By.CSS_SELECTOR, ".where").text in ("frame 6, 0.60 s", "frame 8, 0.80 s")
        assert "A 50 %, B 75 %" in driver.find_element(By.CSS_SELECTOR, ".timeline .value").text
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx"))


def test_two_settings_on_a_bag_from_the_command_line(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = str(write_bag(tmp_path / "in.mcap", [picture(i) for i in range(3)]))
    out = tmp_path / "ab.html"
    sides = ["--a", f"model={tiny}", "threads=1", "--b", "min_confidence=0.9", "--source", bag, "--out", str(out)]
    assert main(["report", *sides, "--fail-if", "agreement < 100"]) == 0
    assert "in: 3 frames; agreement 100.00" in capsys.readouterr().out
    assert "mask: min_confidence 0.9" in out.read_text(encoding="utf-8")
    assert main(["report", *sides, "--fail-if", "drivable_iou < 99.5"]) == 1
    assert "failed: in: drivable_iou < 99.5 (" in capsys.readouterr().err
    out.unlink()
    for orders, told in (
        (
            ["--fail-if", "rode_iou < 9"],
            "no metric is called 'rode_iou'; did you mean road_iou? There are: a_latency_ms",
        ),
        (["--limit", "0"], "limit 0 is not accepted: at least 1 frame is"),
    ):
        monkeypatch.setattr(Segmenter, "segment", None)  # before the first frame
        assert main(["report", *sides, *orders]) == 2
        assert told in capsys.readouterr().err
        assert not out.exists()


def test_the_gate_on_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = sp.DatasetSettings("scenes", split="val", count=1, size=sp.Size(96, 64))
    sp.evaluate(scenes, json=tmp_path / "scores.json", threads=2)
    command = ["report", str(tmp_path / "scores.json"), "--out", str(tmp_path / "r.html")]
    assert main([*command, "--fail-if", "road_iou < 5", "--fail-if", "mean_iou >= 100"]) == 0
    assert main([*command, "--fail-if", "road_iou >= 0"]) == 1
    assert "failed: scores, scenes/val: road_iou >= 0 (" in capsys.readouterr().err
    (tmp_path / "r.html").unlink()
    for orders, told in (
        (["--fail-if", "rode_iou < 9"], "no metric is called 'rode_iou'; did you mean road_iou?"),
        (["--limit", "5", "--topic", "/x"], "--topic, --limit: of no use without --a and --b"),
        (["--every", "2"], "--every: of no use without --dataset"),
    ):
        assert main([*command, *orders]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "r.html").exists()


def evaluation(folder: Path, counts: dict[tuple[int, int], int], *names: str) -> Path:
    """A file of `evaluate --json`, in a folder of its own, of pixels by (truth, answer)."""
    classes = tuple(LabelClass(i, name, (i, 0, 0), drivable=i == 0) for i, name in enumerate(names))
    pixels = PixelCounts(len(names))
    for place, number in counts.items():
        pixels.table[(*place, 255)] = number
    one = Evaluation("d", LabelSet("x", classes), pixels, ConfusionMatrix(len(names)), ())
    folder.mkdir()
    write_evaluations(folder / "scores.json", EvaluationFile("m", "e", (one,)))
    return folder / "scores.json"


def judged(capsys: pytest.CaptureFixture[str], folder: Path, condition: str, *files: Path) -> tuple[int, str]:
    status = main(["report", *map(str, files), "--out", str(folder / "r.html"), "--fail-if", condition])
    return status, "".join(capsys.readouterr())


def test_the_gate_sees_every_decimal_and_every_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # road IoU 95996 / 100000; 4 of a million pixels that are not road are in the mask
    near = evaluation(tmp_path / "near", {(0, 0): 95_996, (0, 1): 4_000, (1, 1): 999_996, (1, 0): 4}, "road", "other")
    assert judged(capsys, tmp_path, "road_iou < 96", near) == (
        1,
        f"report: {tmp_path / 'r.html'} (0.1 MB)\nfailed: scores, d: road_iou < 96 (95.996)\n",
    )
    assert judged(capsys, tmp_path, "false_drivable > 0", near)[0] == 1
    seven = evaluation(tmp_path / "seven", {(0, 0): 7, (0, 1): 93, (1, 1): 1}, "road", "other")
    assert 100 * 0.07 > 7
    status, told = judged(capsys, tmp_path, "road_iou > 7", seven)
    assert (status, "passed, does not hold: scores, d: road_iou > 7 (7.00)" in told) == (0, True)
    # two files of one name: neither stands for the other
    for files in ((seven, near), (near, seven)):
        status, told = judged(capsys, tmp_path, "road_iou < 50", *files)
        assert (status, "failed: scores (seven), d: road_iou < 50 (7.00)" in told) == (1, True)
        assert "scores (near), d: road_iou < 50 (96.00)" in told


def test_every_class_has_a_metric_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("mean", "traffic light", "traffic-light", "a road", "lane/left", "2nd", "road")
    label_set = LabelSet("x", tuple(LabelClass(i, name, (i, 0, 0)) for i, name in enumerate(names)))
    assert list(class_metrics(label_set).values()) == [
        "id0_mean_iou", "id1_traffic_light_iou", "id2_traffic_light_iou", "id3_a_road_iou", "lane_left_iou",
        "id5_2nd_iou", "road_iou",
    ]  # fmt: skip
    half = evaluation(tmp_path / "half", {(0, 0): 1, (1, 1): 1, (1, 0): 1}, "mean", "other")  # 1/2 and 1/2
    assert judged(capsys, tmp_path, "mean_iou < 51", half)[0] == 1
    good = evaluation(tmp_path / "good", {(0, 0): 1, (1, 1): 9, (1, 0): 1}, "mean", "other")  # 1/2 and 9/10
    assert judged(capsys, tmp_path, "mean_iou < 51", good)[0] == 0


def test_masks_of_pictures_and_films_are_the_models_own(frame, sides) -> None:
    def of(settings: DrivableSettings, frames: list[ComparedFrame]) -> list[tuple[int, int, int]]:
        return compare("x", frames, *(replace(side, drivable=settings) for side in sides)).a.mask

    right = [SKY, SKY, ROAD, ROAD]
    # a picture has no frame before it to wait for; a film's frames wait, and those of the next film anew
    waits = DrivableSettings(appear_frames=2)
    assert of(waits, [frame("p", right, right, right)]) == [(16, 0, 0)]
    film = [replace(frame(str(i), right, right, right, stamp=i * 10**8), source="one") for i in (1, 2)]
    assert of(waits, [*film, replace(film[1], source="two")]) == [(0, 0, 16), (16, 0, 0), (0, 0, 16)]
    # the truth of a mask is what A's settings call drivable
    assert of(DrivableSettings(classes=("road", "sky")), [frame("p", right, right, right)]) == [(32, 0, 0)]


@pytest.mark.parametrize("text", ["road_iou", "road_iou = 5", "road_iou < x", "< 5", "road_iou < 5 or 1", "a b < 5"])
def test_a_malformed_condition_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not accepted: write METRIC < NUMBER"):
        Condition.parse(text)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name runs and evaluations to report on, or two sides"),
        (["--a", "threads=1"], "a comparison has two sides"),
        (["--a", "threads=1", "--b", "threads=2"], r"compare on labeled images .* or without truth"),
        (["--a", "treads=1", "--b", "threads=2", "--source", "x"], "did you mean threads?"),
        (["--a", "threads=many", "--b", "threads=2", "--source", "x"], "threads and min_confidence are numbers"),
        (["--a", "threads=1", "--b", "size=3", "--source", "x"], "image size '3' is not accepted"),
    ],
)
def test_wrong_options_of_the_report(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *arguments, "--out", str(tmp_path / "r.html")]) == 2
    assert re.search(message, capsys.readouterr().err)
