"""The HTML report: complete, self-contained, and safe to make of other people's files."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.cli.main import main
from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.evaluation import EvaluationOptions, evaluate
from seg_perception.evaluation.figures import confusion_of
from seg_perception.evaluation.files import FILE_NAME, EvaluationFile, read_run, write_evaluations, write_examples
from seg_perception.evaluation.report import read_source, write_report

ROAD, SKY = 0, 7


class Page(HTMLParser):
    """Collects the tags' attributes and the text; fails on tags that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> list[bytes]:
        sources = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        assert all(source.startswith("data:image/") for source in sources)
        return [base64.b64decode(source.partition(";base64,")[2], validate=True) for source in sources]


@pytest.fixture
def make_evaluation(echo_dataset, echo_segmenter, rows, tmp_path: Path):
    def make(
        folder: str,
        right_rows: int = 4,
        dataset_name: str = "echo <b>&",
        label_set: str = "driving",
        min_confidence: float = 0.5,
    ) -> Path:
        answer = [SKY if row < right_rows else ROAD for row in range(4)]
        sample = (rows(SKY, SKY, SKY, SKY), rows(*answer), rows(9, 99, 199, 255))
        root = tmp_path / folder
        root.mkdir()
        dataset = echo_dataset({"picture<1>": sample, "other": sample}, f"data_{folder}")
        dataset.name = dataset_name
        segmenter = echo_segmenter(label_set)
        evaluation = evaluate(dataset, segmenter, options=EvaluationOptions(min_confidence))
        examples = write_examples(root, dataset, segmenter, evaluation, best=1, worst=1)
        write_evaluations(root / FILE_NAME, EvaluationFile("model", "engine", (evaluation,), tuple(examples)))
        return root

    return make


def make_run(folder: Path, rate: float = 0.001) -> Path:
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(f"name: {folder.name}\noptimizer: {{learning_rate: {rate}}}\nseed: 1\n")
    steps = "".join(f"{step},{3.0 / step},{rate}\n" for step in range(1, 41))
    (folder / "steps.csv").write_text(f"step,loss,learning_rate\n{steps}41,0.0")  # killed while writing step 41
    (folder / "validation.csv").write_text(
        "step,dataset,mean_iou,pixel_accuracy,road,sky\n"
        "20,camvid/val,0.5,0.8,0.9,nan\n20,kitti/val,0.4,0.8,0.7,0.9\n"
        "40,camvid/val,0.7,0.9,0.95,nan\n40,kitti/val,0.3,0.7,0.6,0.8\n"
    )
    return folder


def test_a_page_of_one_evaluation(make_evaluation, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(out, [read_source(make_evaluation("first", right_rows=3))])
    page = Page(out)
    # bars, reliability and confusion matrix; one worst and one best picture
    assert len(page.images) == 5
    for content in page.images:
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None
    assert "75.00" in page.text  # three of four rows right
    assert "echo <b>&" in page.text  # shown as text, not taken for markup
    assert "picture<1>" in page.text


def test_many_classes_and_long_names_leave_a_picture_that_can_be_drawn() -> None:
    """66 classes with a number in each cell took 140 s and 660 MB."""
    few, many = (
        LabelSet("x", tuple(LabelClass(i, f"{i:02} {'long ' * 9}", (i, i, i)) for i in range(n))) for n in (3, 66)
    )
    axis = confusion_of(np.eye(3, dtype=np.int64), few).axes[0]
    assert [text.get_text() for text in axis.texts] == ["100.0"] * 3
    assert axis.get_xticklabels()[2].get_text() == "02 long long long long …"
    figure = confusion_of(np.ones((66, 66), np.int64), many)
    assert not figure.axes[0].texts
    assert max(figure.get_size_inches()) < 16


def test_a_page_asks_the_network_for_nothing(make_evaluation, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(out, [read_source(make_evaluation("first")), read_source(make_run(tmp_path / "run"))])
    page = Page(out)
    names = {name for _, name, _ in page.attributes}
    assert not names & {"href", "srcset", "action", "data", "onload", "onerror"}
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?://", out.read_text(encoding="utf-8"))


def test_what_was_measured_differently_stands_apart(make_evaluation, tmp_path: Path) -> None:
    made = [
        make_evaluation(f"at{threshold}", dataset_name="one", min_confidence=threshold / 10) for threshold in (5, 9)
    ]
    write_report(tmp_path / "r.html", [read_source(folder) for folder in made])
    text = Page(tmp_path / "r.html").text
    for threshold in ("0.5", "0.9"):
        # two images of 4 x 8 pixels; once in the summary and once above their tables
        assert text.count(f"one (2 images, 64 pixels, min_confidence {threshold}, band 3)") == 2


def test_evaluations_are_compared(make_evaluation, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    first, second = make_evaluation("first", right_rows=2), make_evaluation("second", right_rows=3)
    assert main(["report", str(first), str(second / FILE_NAME), "--out", str(out)]) == 0
    text = Page(out).text
    assert "Comparison: first, evaluation" in text  # a file is called by its own name
    assert "+25.00" in text  # 50 % to 75 % IoU of sky
    assert "<b>75.00</b>" in out.read_text(encoding="utf-8")  # the best of a column


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    source = read_source(make_run(tmp_path / "run"))
    write_report(out, [source, source])
    assert "run (2)" in Page(out).text


def test_runs_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    runs = [make_run(tmp_path / "slow", 0.001), make_run(tmp_path / "fast", 0.01)]
    write_report(out, [read_source(run) for run in runs])
    page = Page(out)
    assert "optimizer.learning_rate0.0010.01" in page.text  # a row of the settings that differ
    assert "seed11" not in page.text  # equal settings are not listed
    assert len(page.images) == 1


def test_a_run_carries_its_evaluation(make_evaluation, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    make_evaluation("evaluation").rename(run / "evaluation")
    source = read_source(run)
    assert source.run is not None
    assert source.evaluated is not None
    write_report(tmp_path / "report.html", [source])
    assert len(Page(tmp_path / "report.html").images) == 6


def test_curves_of_a_run_that_was_killed(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert run.steps == tuple(range(1, 41))  # half a row is no row
    assert run.loss[0] == 3.0
    assert run.best_step() == 40  # 0.7 + 0.3 against 0.5 + 0.4
    assert list(run.validation) == ["camvid/val", "kitti/val"]


def test_an_examples_picture_outside_the_folder_is_refused(make_evaluation, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"private")
    folder = make_evaluation("first")
    document = json.loads((folder / FILE_NAME).read_text())
    document["examples"][0]["file"] = "../secret.jpg"
    (folder / FILE_NAME).write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"\.\./secret.jpg: an example's picture must lie below"):
        write_report(tmp_path / "report.html", [read_source(folder)])
    assert not (tmp_path / "report.html").exists()


def test_what_cannot_be_reported_is_named(make_evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty"), "--out", str(tmp_path / "r.html")]) == 2
    assert "neither a training run (steps.csv) nor an evaluation (evaluation.json" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such run, evaluation or folder" in capsys.readouterr().err
    broken = make_run(tmp_path / "broken")
    (broken / "steps.csv").write_text("step,loss,learning_rate\n1,two,3\n")
    with pytest.raises(InputError, match="broken: its logs cannot be read: ValueError"):
        read_source(broken)
    cut = make_run(tmp_path / "cut")
    (cut / "settings.yaml").write_text("train: [")
    with pytest.raises(SettingsError, match=r"cut/settings.yaml: not valid YAML"):
        read_source(cut)
    alone = tmp_path / "before.json"
    alone.write_bytes((make_evaluation("scored") / FILE_NAME).read_bytes())
    with pytest.raises(InputError, match=r"before.json: 2 of 2 pictures that it names are not beside it \(examples/"):
        read_source(alone)
