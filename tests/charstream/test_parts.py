"""A working folder with modules called like our folders breaks neither the command nor the client."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.scripted import serving, tell_token

ROOT = Path(__file__).parents[2]
NAMES = ("client", "server", "models", "protos", "loadtest")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"OWNER = 'the user: {name}'\n")
    return tmp_path


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run Python as somebody would who has charstream installed: the folder comes first in sys.path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["stream", "serve", "data"])
def test_commands_find_their_own_parts(folder: Path, command: str) -> None:
    done = run(folder, "-m", "charstream", command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: charstream {command}")


def test_locust_finds_our_users(folder: Path) -> None:
    """Locust puts the working folder first, also before the locustfile's own imports."""
    done = run(folder, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--list")
    assert (done.returncode, done.stdout.split()[-1]) == (0, "TextUser"), done.stderr


@pytest.mark.parametrize("first", ["import client, protos", ""], ids=["user's first", "ours first"])
def test_the_client_is_found_and_leaves_the_names_to_the_user(folder: Path, first: str) -> None:
    script = f"""{first}
import pickle
from charstream.client import Client, CharstreamError, Replica
assert pickle.loads(pickle.dumps(Replica("d"))) == Replica("d")
import client, models, protos
print(client.OWNER, models.OWNER, protos.OWNER, sep=", ")
with Client(ADDRESS) as connected:
    print(connected.models(), connected.stream("a").read())
"""
    with serving(tell_token) as server:
        done = run(folder, "-c", script.replace("ADDRESS", repr(server.address)))
    expected = "the user: client, the user: models, the user: protos\n[] none\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_where_no_one_else_has_the_name_there_is_one_client(tmp_path: Path) -> None:
    for order in ("import client, charstream.client", "import charstream.client, client"):
        script = f"""{order}
import charstream.client.errors
print(client.Client is charstream.client.Client, charstream.client.errors is client.errors)"""
        done = run(tmp_path, "-c", script)
        assert (done.stdout, done.stderr) == ("True True\n", "")
