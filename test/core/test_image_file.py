"""Image files of every ending and name; what is no file, and what is no data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from handmade import encoded

from seg_perception.core.errors import InputError
from seg_perception.core.files import write_atomically
from seg_perception.core.image_file import IMAGE_SUFFIXES, image_files, is_image_name, read_labels, read_rgb

PICTURE = np.full((8, 12, 3), (200, 100, 50), np.uint8)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_ending_is_read_in_lower_and_upper_case(tmp_path: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"B{suffix.upper()}"):
        (tmp_path / name).write_bytes(encoded(suffix, PICTURE))
        assert is_image_name(tmp_path / name)
        assert np.abs(read_rgb(tmp_path / name).astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize(
    "name", ["run #3.png", "a?b%20c&d.png", 'it\'s "q".png', "Straße.png", "-o.png", "x" * 251 + ".png", b"caf\xe9.png"]
)
def test_a_picture_of_any_name_is_written_and_read(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    write_atomically(path, encoded(".png", PICTURE))
    np.testing.assert_array_equal(read_rgb(path), PICTURE)
    assert image_files(tmp_path.iterdir()) == ([path], [])


def test_what_is_no_regular_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for read in (read_rgb, read_labels):
        for name, kind in (("pipe", "named pipe"), ("zero", "character device"), ("folder", "folder")):
            with pytest.raises(InputError, match=rf"{name}\.png: is a {kind}.*only regular files are read"):
                read(tmp_path / f"{name}.png")


def test_hidden_names_are_no_data_and_others_are_told_apart(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", ".DS_Store", "d.gif", "noending"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    images, others = image_files(tmp_path.iterdir())
    assert [path.name for path in images] == ["a.png", "b.JPG"]
    assert [path.name for path in others] == ["d.gif", "noending", "notes.txt"]
