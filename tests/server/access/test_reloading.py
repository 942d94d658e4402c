"""Files that are read again when they change."""

import logging
import os
import threading
from pathlib import Path

import pytest

from server.access import reloading as files
from server.access.reloading import FileError, Reloaded, read, read_secret


@pytest.fixture(autouse=True)
def every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks each time it is asked: what is waited for otherwise, test_tls.py and test_access.py wait for."""
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.0)


def reloaded(path: Path) -> Reloaded[int]:
    def number() -> int:
        try:
            return int(read(path))
        except ValueError as error:
            raise error if isinstance(error, FileError) else FileError(f"{path}: is no number") from None

    return Reloaded("a number", [path], number)


def test_a_change_shows_however_it_was_made(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("1")
    number = reloaded(path)
    path.write_text("23")
    assert number.current() == 23
    other.write_text("42")
    os.replace(other, path)
    assert number.current() == 42


def test_a_mounted_secret_is_a_link_to_a_link_that_is_replaced(tmp_path: Path) -> None:
    """As Kubernetes does it: file -> ..data/file, ..data -> a folder of that version."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "file").write_text(version)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "file").symlink_to("..data/file")
    number = reloaded(tmp_path / "file")
    (tmp_path / "new").symlink_to("2")
    os.replace(tmp_path / "new", tmp_path / "..data")
    assert number.current() == 2


def test_what_cannot_be_used_is_said_once_and_what_was_there_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    number = reloaded(path)
    path.write_text("broken")
    assert [number.current() for _ in range(3)] == [1, 1, 1]
    path.unlink()
    assert [number.current() for _ in range(3)] == [1, 1, 1]
    assert [(record.levelname, record.getMessage().count("\n")) for record in caplog.records] == [("ERROR", 0)] * 2
    path.write_text("5")
    assert number.current() == 5


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """`--tokens <(...)`: what writes to it may take its time, and a second reading would wait for ever."""
    end, other = os.pipe()
    threading.Timer(0.1, lambda: (os.write(other, b"7"), os.close(other))).start()
    number = reloaded(Path(f"/proc/self/fd/{end}"))
    assert [number.current() for _ in range(2)] == [7, 7]
    os.close(end)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes to the pipe: who opens it, waits."""
    path = tmp_path / "file"
    path.write_text("1")
    number = reloaded(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FileError, match=r"file: is no regular file$"):
        read(path)
    with pytest.raises(FileError, match=r"zero: is no regular file$"):
        read(Path("/dev/zero"))
    assert number.current() == 1
    path.unlink()
    path.write_text("2")
    assert number.current() == 2


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_secret_that_everybody_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(mode)
    (tmp_path / "link").symlink_to("secret")
    with caplog.at_level(logging.WARNING):
        assert read_secret(tmp_path / "link") == b"x"
    assert bool(caplog.records) == warns


def test_a_file_that_becomes_readable_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content and its time of modification are those of before."""
    path, denied = tmp_path / "file", True
    path.write_text("1")

    def number() -> int:
        if denied and path.read_text() == "2":
            raise FileError(f"{path}: Permission denied")
        return int(path.read_text())

    current = Reloaded("a number", [path], number)
    path.write_text("2")
    assert current.current() == 1
    denied = False
    path.chmod(0o644 if path.stat().st_mode & 0o777 != 0o644 else 0o640)
    assert current.current() == 2
