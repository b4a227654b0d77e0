"""Files: shipped ones are found; regular files only, bounded; written whole, under the umask."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from seg_perception.core import files
from seg_perception.core.errors import InputError
from seg_perception.core.files import make_folder, make_room_for, read_regular_file, write_atomically


def test_the_source_tree_is_its_own_share_folder(repository: Path) -> None:
    assert files.share_path("config/labels") == repository / "config" / "labels"
    assert (files.share_path() / "package.xml").is_file()


def test_without_a_home_the_cache_is_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = files.cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)  # another could have put an engine there, which is code
    with pytest.raises(InputError, match=r"is not yours alone, so nothing is read from it; set XDG_CACHE_HOME"):
        files.cache_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(InputError, match="is not yours alone"):
        files.cache_folder()


def test_an_installed_package_finds_its_share_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share" / "seg_perception"
    (share / "config").mkdir(parents=True)
    (share / "package.xml").touch()
    code = tmp_path / "lib" / "python3.12" / "site-packages" / "seg_perception"
    monkeypatch.setattr(files, "PACKAGE", code)
    assert files.share_path.__wrapped__("config") == share / "config"


def test_a_missing_file_names_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "seg_perception")
    with pytest.raises(FileNotFoundError, match=f"'nowhere.yaml' was not found under any of: {tmp_path}"):
        files.share_path.__wrapped__("nowhere.yaml")


def test_the_default_model_ships(driving_model: Path) -> None:
    assert driving_model.stat().st_size <= 20 * 1000 * 1000  # the package promises at most 20 MB


ODD_NAMES = [
    "run #3.png",
    "a?b%20c&d.png",
    'it\'s "quoted".png',
    "Straße läuft.png",
    "-leading.png",
    "x" * 251 + ".png",  # 255 bytes, the longest name there is
    os.fsdecode(b"caf\xe9.png"),  # not UTF-8
    "new\nline.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_of_any_name_is_written_and_read(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"content")
    make_room_for(tmp_path / name)
    assert read_regular_file(tmp_path / name, 7) == b"content"
    assert [p.name for p in tmp_path.iterdir()] == [name]  # no temporary file is left


def test_no_pipe_or_device_is_replaced_by_what_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "null").symlink_to("/dev/null")
    for write in (lambda path: write_atomically(path, b"content"), make_room_for):
        for name, kind in (("pipe", "a named pipe"), ("null", "a character device")):
            with pytest.raises(InputError, match=f"{name}: is {kind}.*which a file would replace; name a regular"):
                write(tmp_path / name)
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            write(tmp_path / "circle")
    with pytest.raises(InputError, match=r"'\.' is not the name of a file to write"):
        write_atomically(Path(), b"content")
    with pytest.raises(InputError, match="/dev/stdout: a file would replace this name of the system's"):
        files.check_place(Path("/dev/stdout"))  # nothing is written if this should fail
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(NotADirectoryError, match=r"a folder to write into is needed, and .* of that name.*pipe"):
        make_folder(tmp_path / "pipe")


def test_no_folder_is_passed_over_when_walking(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):  # `os.walk` would say that there is nothing in it
        list(files.walk(tmp_path / "nowhere"))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        for path, kind in [
            (tmp_path / "pipe.png", "named pipe"),
            (tmp_path, "folder"),
            (Path("/dev/zero"), "character device"),
            (tmp_path / "s", "socket"),
        ]:
            with pytest.raises(InputError, match=rf"^{path}: is a {kind}.*; only regular files are read$"):
                read_regular_file(path, 10)
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="link: is a character device"):
        read_regular_file(tmp_path / "link", 10)
    with pytest.raises(FileNotFoundError):
        read_regular_file(tmp_path / "absent", 10)
    with pytest.raises(InputError, match=r"'a\\x00b': no file has a zero byte in its name"):
        read_regular_file(Path("a\0b"), 10)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "big.png"
    file.write_bytes(bytes(11))
    assert len(read_regular_file(file, 11)) == 11
    with pytest.raises(InputError, match=r"big\.png: 11 bytes are not accepted; at most 10"):
        read_regular_file(file, 10)
    sparse = tmp_path / "sparse.png"
    with sparse.open("wb") as handle:
        handle.truncate(1 << 40)  # a terabyte of holes: refused by its size, not read
    with pytest.raises(InputError, match="1099511627776 bytes"):
        read_regular_file(sparse, 10)
    with pytest.raises(InputError, match="more than 10 bytes"):
        read_regular_file(Path("/proc/self/status"), 10)  # says that it has 0 bytes


@pytest.mark.parametrize("umask, mode, expected", [(0o077, 0o644, 0o600), (0o022, 0o644, 0o644), (0, 0o600, 0o600)])
def test_the_umask_counts(tmp_path: Path, umask: int, mode: int, expected: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == expected


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="cannot write 3 bytes"):
        write_atomically(tmp_path / "folder", b"abc")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(FileNotFoundError, match="absent"):
        write_atomically(tmp_path / "absent" / "a", b"")
    with pytest.raises(IsADirectoryError):
        make_room_for(tmp_path / "folder")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc/self/mem")
def test_a_disk_that_fails_is_told_with_the_file() -> None:
    with pytest.raises(OSError, match="'/proc/self/mem'"):  # its first page is not mapped: an input/output error
        read_regular_file(Path("/proc/self/mem"), 100)


def test_a_tilde_is_the_home_folder_or_a_part_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/some one")
    assert files.user_path("~/a b.png") == Path("/home/some one/a b.png")
    for name in ("~backup.png", "~nobody-of-this-name/a.png", "a~"):  # Path.expanduser raises for two of them
        assert files.user_path(Path(name)) == Path(name)
