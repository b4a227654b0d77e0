"""Teachers' answers kept on disk: on a CPU a teacher costs a step as much as its pupil, and each image comes often.

One file an image, float16 [C, h, w]: the teachers' mean probabilities on the whole image in the deployed size, at a
quarter of it. A crop takes its window of them. So the teachers see neither crop nor changes of color.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from seg_perception.core.errors import SettingsError
from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.core.resizing import network_size, resize_image
from seg_perception.core.types import RgbImage, Size
from seg_perception.datasets.base import Dataset
from seg_perception.training.augmentation import Cut
from seg_perception.training.checkpoint import weights_sha256
from seg_perception.training.distillation import open_teachers
from seg_perception.training.settings import TrainSettings

STRIDE = 4
_MULTIPLE = 32  # of every network's input

Answer = NDArray[np.float16]


class TeacherAnswers:
    """The kept answers of these teachers at this temperature and size; `prepare` makes those that are missing.

    Args:
        settings: of the run; `distillation.cache` names the folder.
    """

    def __init__(self, settings: TrainSettings) -> None:
        teaching = settings.distillation
        assert teaching.cache is not None
        self._settings = settings
        known = [weights_sha256(path) for path in teaching.files]
        self._known_by = repr((known, teaching.temperature, settings.deployed_size, STRIDE)).encode()
        self._folder = teaching.cache

    def load(self, image: RgbImage) -> Answer:
        """float16 [C, h, w].

        Raises:
            SettingsError: there is none for this image, or the file is damaged.
        """
        path = self._path(image)
        try:
            answer: Answer = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SettingsError(
                f"distillation.cache: {path} cannot be read ({error}); remove it, and start the run again"
            ) from error
        return answer

    def prepare(self, datasets: Sequence[Dataset], label_set: LabelSet, device: torch.device) -> str:
        """Let the teachers answer every image of the datasets that has no answer yet; what was done, in words.

        Raises:
            SettingsError: more than `cache_gigabytes` would be kept; or see `open_teachers`.
        """
        teaching = self._settings.distillation
        count = sum(map(len, datasets))
        deployed = self._settings.deployed_size
        gigabytes = count * len(label_set) * deployed.width * deployed.height / STRIDE**2 * 2e-9
        if gigabytes > teaching.cache_gigabytes:
            raise SettingsError(
                f"distillation.cache: the answers on {count} images take {gigabytes:.1f} GB, more than "
                f"cache_gigabytes, {teaching.cache_gigabytes:g}; raise it, or leave the cache out"
            )
        teachers = open_teachers(teaching.files, teaching.temperature, label_set)
        assert teachers is not None
        teachers.to_device(device)
        made = 0
        for dataset in datasets:
            for index in tqdm(range(len(dataset)), f"teachers on {dataset.name}", unit="image", leave=False):
                image = dataset.load(index).image
                if self._path(image).is_file():
                    continue
                size = network_size(Size.of(image), deployed, _MULTIPLE)
                pixels = torch.from_numpy(resize_image(image, size))[None].to(device)
                answer = teachers(pixels, (size.height // STRIDE, size.width // STRIDE))[0]
                content = io.BytesIO()
                np.save(content, answer.half().cpu().numpy())
                self._path(image).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path(image), content.getvalue())
                made += 1
        return f"teachers' answers on {count} images in {self._folder} ({made} new), {gigabytes:.2f} GB"

    def _path(self, image: RgbImage) -> Path:
        digest = hashlib.blake2b(self._known_by, digest_size=20)
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        name = digest.hexdigest()
        return self._folder / name[:2] / f"{name}.npy"


def answer_of_crop(answer: Answer, cut: Cut, crop: Size) -> Answer:
    """The window of an answer that a crop shows, float16 [C, crop height / 4, crop width / 4]; 0 beyond the image."""
    height, width = crop.height // STRIDE, crop.width // STRIDE
    x = (np.arange(width) + 0.5) * STRIDE  # centers of the cells, in the crop's pixels
    y = (np.arange(height) + 0.5) * STRIDE + cut.top
    x = (crop.width - x if cut.flip else x) + cut.left
    columns = (x / cut.zoomed.width * answer.shape[2] - 0.5).astype(np.float32)
    rows = (y / cut.zoomed.height * answer.shape[1] - 0.5).astype(np.float32)
    x_map, y_map = np.meshgrid(columns, rows)
    planes = [
        cv2.remap(plane, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for plane in answer.astype(np.float32)
    ]
    beyond = (y >= cut.zoomed.height)[:, None] | (x >= cut.zoomed.width)[None, :]
    return np.where(beyond, 0, np.stack(planes)).astype(np.float16)
