"""The script of `charstream completion` completes commands, flags and choices in a shell."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Charstream

# Calls the function that the script registers as bash does when Tab is pressed, and prints what it offers.
BASH = r"""
source "$1"; shift
function_name=$(complete -p charstream | sed -E 's/.*-F ([^ ]+) .*/\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
$function_name charstream "${COMP_WORDS[-1]}" ""
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    path = tmp_path_factory.mktemp("completion") / "charstream"
    with open(path, "wb") as file:
        subprocess.run([sys.executable, "-m", "charstream", "completion", "bash"], stdout=file, check=True, timeout=120)
    return path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ver"], {"verify"}),
        (["stream", "--max-ch"], {"--max-chars", "--max-chunk-chars", "--max-chunk-delay"}),
        (["serve", "--tls-c"], {"--tls-cert", "--tls-client-ca"}),
        (["score", "--color", ""], {"auto", "always", "never"}),
        (["score", "--token-file", "t"], {"text.txt"}),
        (["score", "t"], {"text.txt"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes(script: Path, tmp_path: Path, words: list[str], offered: set[str]) -> None:
    (tmp_path / "text.txt").touch()
    command = ["bash", "-c", BASH, "bash", str(script), "charstream", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert {word.rstrip("/") for word in done.stdout.split()} == offered


def test_another_shell_is_refused_by_name(charstream: Charstream) -> None:
    done = charstream("completion", "tcsh")
    assert done.returncode == 2
    assert "'bash', 'zsh' or 'fish'" in done.stderr
