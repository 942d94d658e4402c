"""The programs of docs/client.md and README.md run as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest

from client import Client
from tests.conftest import ServerProcess

ROOT = Path(__file__).parents[2]


def programs(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_every_program_of_the_clients_page_runs(server: ServerProcess) -> None:
    """But for those that need a certificate, or a text that was given up."""
    left_out = 0
    with Client(server.address) as client:
        for program in programs("docs/client.md"):
            if "ca.crt" in program or "go_on" in program:
                left_out += bool(compile(program, "docs/client.md", "exec"))
                continue
            given: dict[str, Any] = {"client": client, "prompt": "ROMEO:"}
            with_address = program.replace("Client()", f"Client({server.address!r})")
            exec(with_address.replace("127.0.0.1:50051", server.address), given)
    assert left_out == 2


def test_the_programs_of_the_readme_run(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    for program in programs("README.md"):
        exec(program.replace("127.0.0.1:50051", server.address), {})
    assert "Finish(reason=" in capsys.readouterr().out
