"""A server with two models on the fake device: texts, a newer version while they run, the older one's end, a drain."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from bundle.manifest import Manifest
from bundle.read import MANIFEST, read_bundle
from bundle.write import write_bundle
from client import Client
from tests.cuda_dry.fake_device import VIOLATION, Check

SECONDS = 120
FLAGS = ("--provider", "cuda", "--engines", "0", "--max-rows", "8", "--port", "0", "--watch", "0.2", "--insecure")
CHARS = 2_000


@dataclass
class ServerLog:
    """A server process and what it says."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stderr
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def wait_for(self, pattern: str) -> str:
        """Return the first group, or all that was found. Raises AssertionError, with the log."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if found := re.search(pattern, self.text):
                return found.group(found.re.groups and 1)
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"no {pattern!r}:\n{self.text}")

    @property
    def text(self) -> str:
        return "".join(self.lines)


def put_version(folder: Path, bundle: Path, version: str) -> None:
    """Write a bundle's content as another version."""
    found = read_bundle(bundle)
    manifest: Manifest = found.manifest.model_copy(update={"version": version})
    for file in found.files:  # the version is in the metadata of each graph, whose length stays
        assert len(version) == len(found.manifest.version), file
    write_bundle(folder, manifest, found.files)


def stream_all(address: str, names: list[str], check: Check) -> None:
    """Read a text of each model, at the same time."""

    def read(name: str) -> None:
        with Client([address]) as client:
            lengths[name] = len("".join(client.stream("To be", model=name, max_chars=CHARS)))

    lengths: dict[str, int] = {}
    threads = [threading.Thread(target=read, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    check.that(lengths == dict.fromkeys(names, CHARS), f"texts of {' and '.join(names)}", lengths)


def main(bundles: Path) -> int:
    check = Check()
    with tempfile.TemporaryDirectory() as folder:
        models, counted = Path(folder, "models"), Path(folder, "counts")
        for name in ("lstm", "gru"):
            shutil.copytree(bundles / name, models / name)
        command = [sys.executable, "-m", "tests.cuda_dry.serve", "--models", str(models), *FLAGS]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"FAKE_COUNTS": str(counted)}
        )
        server = ServerLog(process)
        threading.Thread(target=server.read, daemon=True).start()
        try:
            run_all(check, server, models)
            code = process.wait(SECONDS)
        finally:
            process.kill()
        check.that(code == 0, "it drains, and ends with 0", f"{code}: {server.text}")
        check.that("plugin" not in server.text, "onnxruntime prints nothing of its own", server.text)
        found = {what: int(count) for count, what in (line.split("\t") for line in counted.read_text().splitlines())}
    check.nothing(found, VIOLATION, f"none of {found.get('captures')} captures was broken")
    check.nothing(found, "CAPTURED", "none holds a copy from the host")
    return check.exit_code


def run_all(check: Check, server: ServerLog, models: Path) -> None:
    address = server.wait_for(r"listening on ([^\s\"]+)")
    said = server.wait_for(r"serves lstm .*")
    check.that("CUDAExecutionProvider, cuda:0" in said, "it reports CUDA", said)
    measured = server.wait_for(r"lstm: a step takes .* us in fp16-cuda and .* us in fp32-cuda here")
    check.that(measured, "fp16-cuda and fp32-cuda are measured, and the faster one is taken")
    server.wait_for(r"serves gru ")
    stream_all(address, ["lstm", "gru"], check)
    manifest = json.loads((models / "gru" / MANIFEST).read_text())
    put_version(models / "newer", models / "gru", "2" if manifest["version"] == "1" else "1")
    server.wait_for(r"serves gru 2")
    stream_all(address, ["lstm", "gru"], check)
    shutil.rmtree(models / "gru")
    check.that(server.wait_for(r"unloaded gru"), "the older version is unloaded")
    stream_all(address, ["lstm", "gru"], check)
    server.process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
