"""The long run: it says what it did, and a saved input can be given again."""

import subprocess
import sys
from pathlib import Path

FUZZ = (sys.executable, "-m", "benchmarks.fuzzing", "--surface", "tokens")


def test_a_run_counts_inputs_and_a_saved_one_is_given_again(bundles: Path, tmp_path: Path) -> None:
    flags = ("--bundle", str(bundles / "tiny"), "--faults", str(tmp_path / "faults"))
    ran = subprocess.run([*FUZZ, *flags, "--inputs", "100", "--connected", "40"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "| tokens | 100 |" in ran.stdout
    assert "| 40 |" in ran.stdout
    assert not (tmp_path / "faults").exists()
    (tmp_path / "saved").write_bytes(b"no token")
    again = subprocess.run([*FUZZ, *flags, "--replay", str(tmp_path / "saved")], capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.splitlines()[:2] == ["alone: INVALID_ARGUMENT", "over a connection: {'INVALID_ARGUMENT': 2}"]
