"""The model card, to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from seg_perception.core.errors import ModelError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size

CARD = ModelCard(
    name="driving",
    version="1.2.0",
    network="efficientnet_ladder",
    label_set=load_label_set("driving"),
    input_size=Size(480, 352),
    size_multiple=32,
    precision="fp32",
    weights_sha256="0123456789abcdef",
    data=("scenes, 500 pictures", "CamVid train"),
    data_license="non-commercial research data",
    run={"steps": 10, "seed": 1, "precision": "bf16"},
    scores={"camvid/val": {"mean_iou": 75.5, "iou/road": 95.7}},
    limits=("not at night",),
)


def test_a_card_survives_the_trip_through_json() -> None:
    assert ModelCard.from_json(CARD.to_json()) == CARD
    minimal = dataclasses.replace(CARD, data=(), data_license="", run={}, scores={}, limits=())
    assert ModelCard.from_json(minimal.to_json()) == minimal


def test_the_web_page_reads_fields_that_a_card_has(repository: Path) -> None:
    read = set(re.findall(r"page\.card\.(\w+)", (repository / "web" / "app.js").read_text(encoding="utf-8")))
    assert "data_license" in read
    assert read - {"id"} <= json.loads(CARD.to_json()).keys()  # web/build.py adds the id


def test_the_id_names_version_precision_and_weights() -> None:
    assert CARD.id == "driving-1.2.0-fp32-01234567"


def _changed(**changes: Any) -> str:
    document = json.loads(CARD.to_json())
    for name, value in changes.items():
        if value is None:
            del document[name]
        else:
            document[name] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "text, message",
    [
        ("not JSON", "the model card is not JSON: Expecting value"),
        ("[" * 100_000, "the model card is not JSON: maximum recursion depth"),
        ("[]", "the model card must be a JSON object, got list"),
        ("null", "the model card must be a JSON object, got NoneType"),
        (_changed(format=2), "model card format 2 is not supported; this version reads format 1"),
        (_changed(format=None), "model card format None is not supported"),
        (_changed(name=None), "name: missing"),
        (_changed(surprise=1), "surprise: unknown; known here: name, version"),
        (_changed(label_set=None), "label_set: missing"),
        (_changed(label_set={"name": "x", "classes": []}), "label set 'x': it has no classes"),
        (_changed(label_set={"name": "x", "classes": [{"id": 0}]}), r"label_set.classes\[0\].color: missing"),
        (
            _changed(
                label_set={"name": "x", "classes": [{"id": 0, "name": "road", "color": [1, 2], "drivable": True}]}
            ),
            r"label_set.classes\[0\].color: 3 values are expected, got 2",
        ),
        (_changed(input_size={"width": 0, "height": 5}), "image size 0x5 is not accepted"),
        (_changed(input_size={"width": 480.5, "height": 352}), r"input_size.width: 480.5 is not accepted"),
        (_changed(input_size={"width": 10**6, "height": 10**6}), "input_size 1000000x1000000 has more than 16777216"),
        (_changed(size_multiple=0), "size_multiple 0 is not in 1 to 1024"),
        (_changed(size_multiple=32.5), "size_multiple: 32.5 is not accepted; a value of type int is expected"),
        (_changed(weights_sha256=5), "weights_sha256: 5 is not accepted; a value of type text is expected"),
        (_changed(data="CamVid"), "data: a list is expected, got 'CamVid'"),
        (_changed(run=[1]), "run: a table is expected"),
        (_changed(scores={"camvid": {"mean_iou": "high"}}), "scores.camvid.mean_iou: 'high' is not accepted"),
        (_changed(precision="fp8"), r"precision: 'fp8' is not accepted; accepted: 'fp32', 'fp16', 'int8'"),
    ],
)
def test_a_wrong_card_is_refused_with_the_fault(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelCard.from_json(text)


def test_a_text_is_no_truth_value() -> None:
    """Python takes "false" for true: a pole would be drivable."""
    document = json.loads(CARD.to_json())
    pole = document["label_set"]["classes"][2]
    assert (pole["name"], pole["drivable"]) == ("pole", False)
    pole["drivable"] = "false"
    with pytest.raises(ModelError, match=r"label_set.classes\[2\].drivable: 'false' is not accepted; .* bool"):
        ModelCard.from_json(json.dumps(document))
