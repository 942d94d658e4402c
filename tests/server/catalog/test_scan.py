"""What lies in the folder of models beside bundles keeps nobody from being served."""

import signal
import sys
import time
from pathlib import Path

import pytest

from bundle.read import MANIFEST
from server.catalog import scan
from server.catalog.scan import Look, look_at
from tests.server.catalog.test_model_life import Files, look, put, serving

# As of a network's file system whose server is gone.
HANGS = """
import sys, time
from server.catalog import reconcile
from server.__main__ import main
first = reconcile.look_at
def look_at(folder, before):
    return time.sleep(60) if before.found else first(folder, before)
reconcile.look_at = look_at
sys.exit(main())
"""
TARGETS = {"a" * 300: "File name too long", "link": "Too many levels of symbolic links"}


@pytest.mark.parametrize(("target", "reason"), TARGETS.items())
@pytest.mark.parametrize("beside", ["", "tiny"])
def test_what_cannot_be_looked_at_is_named_and_the_others_found(
    tiny_files: Files, tmp_path: Path, beside: str, target: str, reason: str
) -> None:
    put(tmp_path / "tiny" / "1", tiny_files)
    link = tmp_path / beside / "link"
    link.symlink_to(target)
    seen = look_at(tmp_path, Look())
    assert [str(found) for found in seen.found] == ["tiny 1"]
    assert seen.broken == {link: (None, f"{link}: {reason}")}
    link.rename(link.with_name(".link"))
    assert not look_at(tmp_path, seen).broken


def test_an_empty_folder_is_no_bundle_and_no_failure(tiny_files: Files, tmp_path: Path) -> None:
    """A file system's lost+found, whatever was found, and what somebody is about to fill."""
    put(tmp_path / "tiny", tiny_files)
    (tmp_path / "new").mkdir()
    (tmp_path / "lost+found" / "#12").mkdir(parents=True)
    seen = look_at(tmp_path, Look())
    assert ([str(found) for found in seen.found], seen.broken) == (["tiny 1"], {})
    (tmp_path / "new" / "todo").touch()
    assert list(look_at(tmp_path, seen).broken) == [tmp_path / "new"]


def test_a_manifest_that_comes_between_two_looks_is_missing_in_this_one(
    tiny_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "tiny", tiny_files)
    content = scan._content
    monkeypatch.setattr(scan, "_content", lambda folder: tuple(one for one in content(folder) if one[0] != MANIFEST))
    seen = look_at(tmp_path, Look())
    assert not seen.found
    assert seen.broken[tmp_path / "tiny"][1] == f"{tmp_path / 'tiny' / MANIFEST}: is missing"
    monkeypatch.undo()
    assert look_at(tmp_path, seen).found[0].modified_at > 0


def test_a_server_starts_beside_it_and_looks_on(tiny_files: Files, tmp_path: Path) -> None:
    put(tmp_path / "tiny" / "1", tiny_files)
    (tmp_path / "note").symlink_to("a" * 300)
    with serving(tmp_path) as server:
        put(tmp_path / "tiny" / "2", tiny_files, version="2")
        look(server)
        server.wait_for("serves tiny 2 ")
        assert server.count("note: File name too long", 1) == 1


def test_a_look_that_hangs_does_not_hold_up_the_end(bundles: Path) -> None:
    with serving(bundles, "--watch", "0.1", command=(sys.executable, "-c", HANGS)) as server:
        time.sleep(0.5)
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0
