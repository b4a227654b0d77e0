"""Files that ship beside the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from seg_perception.core import resources


def test_the_source_tree_is_its_own_share_folder(repository: Path) -> None:
    assert resources.share_path("config/labels") == repository / "config" / "labels"
    assert (resources.share_path() / "package.xml").is_file()


def test_an_installed_package_finds_its_share_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share" / "seg_perception"
    (share / "config").mkdir(parents=True)
    (share / "package.xml").touch()
    code = tmp_path / "lib" / "python3.12" / "site-packages" / "seg_perception"
    monkeypatch.setattr(resources, "PACKAGE", code)
    assert resources.share_path.__wrapped__("config") == share / "config"


def test_a_missing_file_names_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "seg_perception")
    with pytest.raises(FileNotFoundError, match=f"'nowhere.yaml' was not found under any of: {tmp_path}"):
        resources.share_path.__wrapped__("nowhere.yaml")


def test_the_default_model_ships(driving_model: Path) -> None:
    assert driving_model.stat().st_size <= 20 * 1000 * 1000  # the package promises at most 20 MB
