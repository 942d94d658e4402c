"""Fuzz one surface in this process, which ends with it: by atheris, which keeps inputs that reach new code, or without.

    python -m benchmarks.fuzzing.guided SURFACE INPUTS BUNDLE FOLDER

It writes FOLDER/result.json after all inputs; after a fault FOLDER has the input as crash-..., and the exit code is
not 0.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from random import Random

__all__ = ["main"]

TIMEOUT_SECONDS = 90
LONGEST = 1 << 16
# One change of four is libFuzzer's own, which knows only what the bytes were compared with, and one is of a seed.
CHANGES = 4


def main() -> None:
    name, inputs, bundle, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    (_fuzz_guided if find_spec("atheris") else _fuzz_unguided)(name, inputs, bundle, folder)


def _fuzz_guided(name: str, inputs: int, bundle: Path, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["server", "bundle", "charstream", "tomllib"]):
        from benchmarks.fuzzing.surfaces import open_surface

    outcomes: Counter[str] = Counter()
    with open_surface(name, bundle) as surface:

        def take(data: bytes) -> None:
            outcomes[surface.take(data)] += 1
            if outcomes.total() == inputs:
                # libFuzzer ends the process, and so leaves no other moment.
                _write(folder, outcomes, guided=True)

        def change(data: bytes, most: int, seed: int) -> bytes:
            rng = Random(seed)
            match rng.randrange(CHANGES):
                case 0:
                    return bytes(atheris.Mutate(data, most))
                case 1:
                    return surface.change(rng.choice(surface.seeds), rng)[:most]
            return surface.change(data, rng)[:most]

        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(surface.seeds):
            (corpus / str(number)).write_bytes(seed)
        longest = 2 * max(LONGEST, *map(len, surface.seeds))
        flags = [f"-runs={inputs}", f"-timeout={TIMEOUT_SECONDS}", f"-max_len={longest}", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *flags, "-rss_limit_mb=4096", str(corpus)], take, custom_mutator=change)
        atheris.Fuzz()


def _fuzz_unguided(name: str, inputs: int, bundle: Path, folder: Path) -> None:
    from benchmarks.fuzzing.surfaces import open_surface

    outcomes: Counter[str] = Counter()
    with open_surface(name, bundle) as surface:
        for number in range(inputs):
            data = surface.input(number)
            try:
                outcomes[surface.take(data)] += 1
            except Exception:
                (folder / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
                raise
    _write(folder, outcomes, guided=False)


def _write(folder: Path, outcomes: "Counter[str]", *, guided: bool) -> None:
    result = folder / "result.json"
    result.with_suffix(".new").write_text(json.dumps({"outcomes": outcomes, "guided": guided}))
    os.replace(result.with_suffix(".new"), result)


if __name__ == "__main__":
    main()
