"""Processes that share a search by PostgreSQL: one dies, and no trial is lost or made twice."""

import gc
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from models.experiments.search import main
from tests.forked import context
from tests.models.conftest import SMALL

pytest.importorskip("psycopg", reason="psycopg (charstream[postgresql]) is not installed")
TRIALS, PROCESSES = 6, 4
SPACE = ("--space", "learning-rate=1e-4..3e-2", "--space", "hidden=8..16")


def find_program(name: str) -> str | None:
    """Debian keeps PostgreSQL's programs by version, and links few of them."""
    return shutil.which(name) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))), None)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of a PostgreSQL server of its own, which listens on a socket in a folder."""
    initdb, pg_ctl = find_program("initdb"), find_program("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = tempfile.mkdtemp(prefix="charstream-pg-", dir="/tmp")
    other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    if other:
        shutil.chown(folder, "postgres", "postgres")

    def run(*command: str) -> None:
        # Into a file: the server would keep a pipe open.
        with open(f"{folder}/output", "w") as output:
            done = subprocess.run([*other, *command], cwd="/", stdout=output, stderr=output, timeout=120, check=False)
        assert done.returncode == 0, Path(f"{folder}/output").read_text()

    data, log = f"{folder}/data", f"{folder}/log"
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
    run(initdb, "-D", data, "-A", "trust", "-U", "charstream", "--no-sync", "-E", "UTF8", "--locale", "C")
    run(pg_ctl, "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        yield f"postgresql://charstream@/postgres?host={folder}"
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def search(flags: list[str], log: Path) -> None:
    """In a process of its own."""
    gc.enable()
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    code = main(flags)
    sys.stdout.flush()
    os._exit(code)


def test_of_four_processes_one_is_killed_and_no_trial_is_lost_or_made_twice(
    database: str, verse: Path, tmp_path: Path
) -> None:
    flags = ["--data", str(verse), *SMALL, "--steps", "60", *SPACE, "--trials", str(TRIALS), "--no-prune"]
    shared = ["--storage", database, "--study", "mine", "--stale-seconds", "8"]
    logs = [tmp_path / f"{number}.log" for number in range(PROCESSES)]
    outs = [tmp_path / str(number) for number in range(PROCESSES)]
    processes = [
        context.Process(target=search, args=([*flags, *shared, "--out", str(out)], log))
        for out, log in zip(outs, logs, strict=True)
    ]
    for process in processes:
        process.start()
    begun = wait_for_trial(logs[-1])
    processes[-1].kill()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0, 0, -signal.SIGKILL], "".join(
        log.read_text()[-2000:] for log in logs
    )

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = RDBStorage(database)
    trials = optuna.load_study(study_name="mine", storage=storage).trials
    storage.engine.dispose()
    ended = [trial.number for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(ended) == TRIALS
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    assert trials[begun].state is TrialState.FAIL, "by its heartbeat"
    for number in ended:
        assert sum((out / "runs" / f"trial-{number:04}").exists() for out in outs) == 1
    results = [json.loads((out / "results.json").read_text())["trials"] for out in outs[:-1]]
    assert max(map(len, results)) == TRIALS


def wait_for_trial(log: Path) -> int:
    for _ in range(12_000):
        if log.exists() and (found := re.search(r"trial (\d+) \(", log.read_text())):
            return int(found[1])
        time.sleep(0.01)
    raise AssertionError(f"no trial was begun: {log.read_text()}")


def test_a_search_of_other_settings_does_not_mix_with_it(
    database: str, verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(verse), *SMALL, *SPACE, "--trials", "1", "--storage", database, "--study", "other"]
    assert main([*flags, "--steps", "3", "--out", str(tmp_path / "a")]) == 0
    with pytest.raises(SystemExit) as end:
        main([*flags, "--steps", "4", "--out", str(tmp_path / "b")])
    assert end.value.code == 2
    assert "the search other in the database was begun with steps 3, not 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("sqlite:///x.db", 2, "postgresql://USER@HOST/DATABASE is expected"),
        ("nonsense", 2, "postgresql://USER@HOST/DATABASE is expected"),
        ("postgresql://me:secret@127.0.0.1:1/x", 1, "postgresql://me:***@127.0.0.1:1/x: connection failed"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(
    verse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, code: int, says: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--data", str(verse), "--out", str(tmp_path / "a"), *SMALL, "--storage", url])
    assert end.value.code == code
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
    assert "secret" not in told
