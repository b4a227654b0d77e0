"""Data on the device: batched crops and changes are those of the CPU path, by value where possible, else by share."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from seg_perception.core.errors import SettingsError
from seg_perception.core.label_set import LabelSet, load_label_set
from seg_perception.core.resizing import resize_image, resize_labels
from seg_perception.core.types import UNKNOWN, UNLABELED, Size
from seg_perception.datasets.base import Sample
from seg_perception.scenes import random_scene
from seg_perception.training import augmentation as change
from seg_perception.training.augmentation import augment
from seg_perception.training.data import open_run_data
from seg_perception.training.optimization import CompiledOrNot
from seg_perception.training.resident import (
    Draws,
    ResidentCrops,
    ResidentData,
    draw,
    kept_between_runs,
    load_resident,
    open_batches,
)
from seg_perception.training.settings import AugmentationSettings, TrainSettings
from seg_perception.training.train import run_training

Tiny = Callable[..., TrainSettings]
CPU = torch.device("cpu")
CROP = Size(48, 32)
STILL = AugmentationSettings(
    crop=CROP, scale=(1.0, 1.0), aspect=1.0, flip=0.0, brightness=0, contrast=0, saturation=0, gamma=1, color_cast=0,
    blur=0, noise=0, jpeg=0,
)  # fmt: skip
COUNT = 400


class Drawn:
    """Scenes in memory as a dataset."""

    name = "drawn"
    left_out = ()

    def __init__(self, *samples: Sample) -> None:
        self._samples = samples

    @property
    def label_set(self) -> LabelSet:
        return load_label_set("driving")

    def __len__(self) -> int:
        return len(self._samples)

    def load(self, index: int) -> Sample:
        return self._samples[index]


@pytest.fixture(scope="module")
def scenes() -> Drawn:
    """Three scenes of different shapes."""
    frames = [random_scene(seed, size) for seed, size in ((1, Size(96, 64)), (2, Size(150, 64)), (3, Size(96, 110)))]
    return Drawn(*(Sample(str(i), frame.image, frame.labels) for i, frame in enumerate(frames)))


@pytest.fixture
def resident(tiny: Tiny, scenes: Drawn) -> Callable[..., tuple[TrainSettings, ResidentData, ResidentCrops]]:
    def build(augmentation: AugmentationSettings, batch: int = 8) -> tuple[TrainSettings, ResidentData, ResidentCrops]:
        settings = tiny(augmentation=augmentation, batch_size=batch, deployed_size=Size(96, 64))
        data = load_resident(settings, [scenes], CPU)
        assert data is not None
        return settings, data, ResidentCrops(settings, data)

    return build


Resident = Callable[..., tuple[TrainSettings, ResidentData, ResidentCrops]]


def on_the_cpu(scenes: Drawn, augmentation: AugmentationSettings) -> tuple[np.ndarray, np.ndarray]:
    """As many crops by `augment`, of samples drawn evenly: uint8 [n, h, w, 3] and [n, h, w]."""
    rng = np.random.default_rng(5)
    rare = [scenes.label_set.id_of(name) for name in augmentation.rare_classes]
    samples = (scenes.load(int(rng.integers(len(scenes)))) for _ in range(COUNT))
    crops = [augment(sample, augmentation, Size(96, 64), rng, rare) for sample in samples]
    return np.stack([crop[0] for crop in crops]), np.stack([crop[1] for crop in crops])


def one(sample: int, zoomed: Size, corner: tuple[int, int], flip: bool) -> Draws:
    nothing = np.zeros(1)
    return Draws(
        np.array([sample]), np.array([[zoomed.width, zoomed.height]]), np.array([corner]), np.array([flip]),
        np.ones((1, 7)), nothing, nothing, nothing.astype(np.int64), np.zeros((1, 5), np.int64),
    )  # fmt: skip


@pytest.mark.parametrize("zoomed", [Size(96, 64), Size(131, 90), Size(80, 55), Size(40, 70), Size(45, 28)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_cut_from_the_zoomed_sample_as_the_cpu_path_cuts_it(
    zoomed: Size, flip: bool, scenes: Drawn, resident: Resident
) -> None:
    _, _, crops = resident(STILL)
    sample = scenes.load(0)
    left, top = max(0, (zoomed.width - CROP.width) // 2), max(0, zoomed.height - CROP.height)
    pixels, labels = crops.cut(one(0, zoomed, (left, top), flip))
    window = slice(top, top + CROP.height), slice(left, left + CROP.width)
    image = np.full((CROP.height, CROP.width, 3), 127, np.uint8)
    truth = np.full((CROP.height, CROP.width), UNLABELED, np.uint8)
    cut = resize_image(sample.image, zoomed)[window], resize_labels(sample.labels, zoomed)[window]
    image[: cut[0].shape[0], : cut[0].shape[1]], truth[: cut[1].shape[0], : cut[1].shape[1]] = cut
    if flip:
        image, truth = image[:, ::-1], truth[:, ::-1]
    assert np.array_equal(labels[0].numpy(), truth)
    difference = np.abs(pixels[0].permute(1, 2, 0).numpy() - image)
    if zoomed.width * 1.5 >= 96 or zoomed.height >= 64:  # bilinear in both; OpenCV's weights have eleven bits
        assert difference.max() <= 1
    else:  # the mean of four places, and of the covered area
        assert difference.mean() < 4


def test_changes_of_color_by_hand() -> None:
    x = torch.tensor([64.0, 128.0, 255.0]).reshape(1, 3, 1, 1)
    one_, ones = torch.ones(1), torch.ones(1, 3)
    # ((64 / 255) ** 2 - 0.5) * 1.2 + 0.5 = -0.0244, times 1.1: below 0; 128: 0.2024 * 1.1 * 255 = 56.8; 255: 1.21
    toned = change.tone(x, 2 * one_, 1.2 * one_, 1.1 * one_, ones)
    assert toned.flatten().tolist() == [0, 57, 255]
    gains = torch.tensor([[1.5, 1.0, 0.5]])
    assert change.tone(x, one_, one_, one_, gains).flatten().tolist() == [96, 128, 128]
    # gray = 0.299 * 64 + 0.587 * 128 + 0.114 * 255 = 123.3; half of each difference to it
    assert change.saturate(x, 0.5 * one_).flatten().tolist() == [94, 126, 189]


def test_blur_and_jpeg_are_opencvs() -> None:
    image = random_scene(4, Size(96, 70)).image
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for sigma in (0.4, 1.5):
        blurred = change.blur(x, torch.tensor([sigma]))[0].permute(1, 2, 0).numpy()
        assert np.abs(blurred - cv2.GaussianBlur(image, (0, 0), sigma)).max() <= 2
    for quality in (35, 60, 89):
        ours = change.JpegLike(CPU)(x, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy()
        _, encoded = cv2.imencode(".jpg", image[..., ::-1].copy(), [cv2.IMWRITE_JPEG_QUALITY, quality])
        theirs = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
        lost = np.abs(image - theirs).mean()
        assert np.abs(ours - theirs).mean() < max(0.6, 0.45 * lost)  # both round to whole levels
        assert np.abs(ours - image).mean() == pytest.approx(lost, rel=0.2)
    smooth = cv2.resize(np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8), (96, 70))
    _, encoded = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 60])
    theirs = cv2.imdecode(encoded, cv2.IMREAD_COLOR).astype(float)
    x = torch.from_numpy(smooth[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    ours = change.JpegLike(CPU)(x, torch.tensor([60.0]))[0].permute(1, 2, 0).numpy()[..., ::-1]
    steps = [np.abs(np.diff(picture, 2, axis=1)).mean() for picture in (ours, theirs)]
    assert steps[0] == pytest.approx(steps[1], rel=0.03)  # in smooth places what levels are rounded to


def test_noise_has_its_strength_and_repeats_by_its_seed() -> None:
    x = torch.full((2, 3, 40, 40), 127.0)
    noisy = change.add_noise(x, torch.tensor([2.0, 10.0]), [7, 8])
    assert noisy[0].std().item() == pytest.approx(2, rel=0.1)
    assert noisy[1].std().item() == pytest.approx(10, rel=0.1)
    assert torch.equal(change.add_noise(x[:1], torch.tensor([10.0]), [8])[0], noisy[1])


def test_zooms_and_shares_are_those_asked_for(resident: Resident) -> None:
    a = dataclasses.replace(AugmentationSettings(), crop=CROP, unknown=0.3, flip=0.4, blur=0.2, noise=0.3, jpeg=0.1)
    settings, data, _ = resident(a, batch=6000)
    drawn = draw(settings, data, 0, slice(0, 6000))
    zoom = np.sqrt((drawn.zoomed / data.target[drawn.sample]).prod(axis=1))
    for share in (0.1, 0.5, 0.9):  # the logarithm is uniform
        expected = math.exp(math.log(0.6) + share * math.log(1.8 / 0.6))
        assert np.quantile(zoom, share) == pytest.approx(expected, rel=0.03)
    assert zoom.min() > 0.57
    assert zoom.max() < 1.86
    shares = {"flip": drawn.flip, "blur": drawn.blur > 0, "noise": drawn.noise > 0, "jpeg": drawn.jpeg > 0}
    shares["unknown"] = drawn.cover[:, 1] > 0
    for name, happened in shares.items():
        assert happened.mean() == pytest.approx(getattr(a, name), abs=4 * math.sqrt(0.25 / 6000)), name
    whole = (drawn.cover[:, 1] == CROP.height) & (drawn.cover[:, 3] == CROP.width)
    assert whole.sum() / shares["unknown"].sum() == pytest.approx(0.5, abs=0.05)
    assert np.bincount(drawn.sample).tolist() == pytest.approx([2000] * 3, rel=0.08)
    assert drawn.jpeg[drawn.jpeg > 0].min() == 35
    assert drawn.jpeg.max() == 89
    assert drawn.tone[:, 0].min() > 1 / 1.4
    assert np.median(drawn.tone[:, 0]) == pytest.approx(1, abs=0.02)


def test_crops_are_distributed_as_those_of_the_cpu_path(scenes: Drawn, resident: Resident) -> None:
    """Shares of the classes, of gray beyond the sample, of crops with a rare class; brightness, contrast and color."""
    a = dataclasses.replace(
        AugmentationSettings(), crop=CROP, unknown=0.2, rare=0.5, rare_classes=("pole", "traffic sign")
    )
    _, _, crops = resident(a, batch=COUNT)
    ours_made = tuple(t.numpy() for t in crops.batch(0, slice(0, COUNT)))
    theirs_made = on_the_cpu(scenes, a)
    for measure in (
        *(lambda image, labels, c=c: (labels == c).mean(axis=(1, 2)) for c in (0, 2, 4, 5, 7, 8, UNKNOWN, UNLABELED)),
        lambda image, labels: (labels == 2).any(axis=(1, 2)),
        lambda image, labels: (labels == UNKNOWN).any(axis=(1, 2)),
        *(lambda image, labels, c=c: image[..., c].mean(axis=(1, 2)) for c in range(3)),
        lambda image, labels: image.std(axis=(1, 2, 3)),
        lambda image, labels: image.astype(float).std(axis=3).mean(axis=(1, 2)),  # how colorful
        lambda image, labels: np.abs(np.diff(image.astype(float), axis=2)).mean(axis=(1, 2, 3)),  # how sharp or noisy
    ):
        theirs, ours = (np.asarray(measure(*pair), float) for pair in (theirs_made, ours_made))
        spread = math.sqrt((theirs.var() + ours.var()) / COUNT)
        assert abs(theirs.mean() - ours.mean()) <= 4 * spread


def test_a_batch_is_a_function_of_seed_and_step_however_it_is_shared_out(resident: Resident) -> None:
    a = dataclasses.replace(AugmentationSettings(), crop=CROP, unknown=0.5, noise=0.5, blur=0.5, jpeg=0.5)
    _, _, crops = resident(a)
    whole = crops.batch(3, slice(0, 8))
    halves = [crops.batch(3, slice(0, 4)), crops.batch(3, slice(4, 8))]
    for i in range(2):
        assert torch.equal(whole[i], torch.cat([half[i] for half in halves]))
    assert not torch.equal(whole[0], crops.batch(4, slice(0, 8))[0])
    assert (whole[1] == UNKNOWN).any()


def test_large_samples_are_kept_no_larger_than_a_zoom_needs(tiny: Tiny) -> None:
    frame = random_scene(1, Size(480, 352))
    settings = tiny(augmentation=dataclasses.replace(STILL, scale=(1.0, 1.5)))
    data = load_resident(settings, [Drawn(Sample("large", frame.image, frame.labels))], CPU)
    assert data is not None
    assert (int(data.width[0]), int(data.height[0])) == (138, 100)  # 1.5 times 92x67
    assert data.target.tolist() == [[92, 67]]


def losses_of(settings: TrainSettings) -> list[str]:
    run_training(settings)
    return (settings.run_folder / "steps.csv").read_text().splitlines()[1:]


def test_a_run_on_resident_data_says_so_resumes_exactly_and_learns(
    tiny: Tiny, cut_off: Callable[[TrainSettings], None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(data_on="device", steps=12, checkpoint_every=4)
    whole = losses_of(settings)
    assert "GB of decoded data on the device, which cuts and changes the crops" in capsys.readouterr().out
    cut = dataclasses.replace(settings, name="cut")
    cut_off(cut)
    assert losses_of(cut) == whole
    first, last = (float(line.split(",")[1]) for line in (whole[0], whole[-1]))
    assert last < first


def test_data_that_does_not_fit_is_left_to_workers_and_said_or_refused(tiny: Tiny) -> None:
    settings = tiny(data_on="device", cache_gigabytes=1e-6)
    train = open_run_data(settings).train
    with pytest.raises(SettingsError, match=r"data_on: the decoded data takes more than cache_gigabytes, 1e-06; raise"):
        open_batches(settings, train, CPU, 0, 0, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seg_perception.training.resident.lives_on_device", lambda *_: True)
        _, told = open_batches(dataclasses.replace(settings, data_on="auto"), train, CPU, 0, 0, 1)
    assert told == ("this process cuts the crops (the decoded data takes more than cache_gigabytes, 1e-06)")


def test_data_takes_no_more_than_half_of_what_a_gpu_has_free(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a GPU, which cannot be here, that has 50 kB free; the data takes 147 kB."""
    device = types.SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (50_000, 2**36))
    settings = tiny(data_on="device")
    train = open_run_data(settings).train
    half = "half of the device's free memory, 0.00 GB"
    with pytest.raises(SettingsError, match=rf"data_on: the decoded data takes more than {half}; write 'auto' or"):
        open_batches(settings, train, device, 0, 0, 1)
    _, told = open_batches(dataclasses.replace(settings, data_on="auto"), train, device, 0, 0, 1)
    assert told == f"this process cuts the crops (the decoded data takes more than {half})"


def test_runs_of_one_plan_share_the_data(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    monkeypatch.setattr(
        "seg_perception.training.resident.load_resident", lambda *a: loads.append(1) or load_resident(*a)
    )
    settings = tiny(data_on="device", steps=2)
    with kept_between_runs():
        for name in ("one", "two"):
            run_training(dataclasses.replace(settings, name=name))
        assert len(loads) == 1
    run_training(dataclasses.replace(settings, name="three"))
    assert len(loads) == 2


def test_no_step_waits_for_the_device(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 11 and 17 steps ask the device for as many values: those of start and end; not one in a step."""
    count = [0]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            return function(*arguments, **options)

        return call

    getitem = torch.Tensor.__getitem__

    def counted_index(tensor: torch.Tensor, index: Any) -> torch.Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        count[0] += any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)
        return getitem(tensor, index)

    augmentation = dataclasses.replace(
        AugmentationSettings(), crop=Size(64, 48), unknown=0.3, noise=0.5, blur=0.5, jpeg=0.5, rare=0.5,
        rare_classes=("car",),
    )  # fmt: skip
    counts = []
    for steps in (11, 17):
        settings = tiny(name=f"run{steps}", data_on="device", steps=steps, checkpoint_every=100)
        settings = dataclasses.replace(
            settings, augmentation=augmentation, loss=dataclasses.replace(settings.loss, lovasz=0.5, hard_pixels=0.5)
        )
        count[0] = 0
        with monkeypatch.context() as patch:
            for name in ("item", "__bool__", "__float__", "__int__", "nonzero", "tolist", "__index__", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
            patch.setattr(torch.Tensor, "__getitem__", counted_index)
            for name in ("nonzero", "tensor", "as_tensor"):  # the last two copy to the device
                patch.setattr(torch, name, counted(getattr(torch, name)))
            run_training(settings)
        counts.append(count[0])
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("late", [False, True])
def test_a_compiler_that_fails_is_said_and_done_without(
    late: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = losses_of(tiny(accumulation=2))

    def broken(module: Any, **_: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise RuntimeError("no C++ compiler here")

        def forward_only(*batch: Any) -> Any:
            loss = module(*batch)
            loss.register_hook(fail)
            return loss

        return forward_only if late else fail

    monkeypatch.setattr(torch, "compile", broken)
    assert losses_of(tiny(name="compiled", compile=True, accumulation=2)) == plain
    assert "compile: without it, since it failed here (RuntimeError: no C++ compiler here)" in capsys.readouterr().out
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    assert losses_of(tiny(name="proven", compile=True, accumulation=2)) == plain


@pytest.mark.parametrize("passes, mode", [(1, "reduce-overhead"), (2, None)])
def test_cuda_graphs_are_not_for_gradients_that_add_up(
    passes: int, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They overwrite the gradients of the pass before, in silence (pytorch issue 169545)."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda module, mode: asked.append(mode) or module)
    CompiledOrNot(torch.nn.Identity(), torch.device("cuda"), passes)
    assert asked == [mode]
