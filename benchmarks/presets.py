"""Measure what a character of each preset costs to serve: the decode graph in one thread, in 8 bits and in fp32.

    python -m benchmarks.presets [--rounds 5]

The models are untrained, as speed does not depend on what the weights have learnt, and know 65 characters. All are
measured in turn, in one run; medians are printed as rows of the table in docs/training.md.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.speed.graphs import time_graph
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import measure_in_turn, rounds_parser
from bundle.manifest import Manifest, TrainingRecord
from bundle.read import decode_file, full_file
from bundle.vocabulary import Vocabulary
from export.build import USUAL, build
from models.network.char_lm import CharLM
from models.training.checkpoint import Trained
from models.training.settings import TrainSettings
from server.runtime.host_runner import Runner

PRESETS = ("demo", "shakespeare", "default")
ROWS = (1, 64)
SYMBOLS = "\n" + "".join(map(chr, range(32, 96)))


def export_untrained(preset: str) -> tuple[Manifest, dict[str, bytes]]:
    torch.manual_seed(0)
    settings = TrainSettings(preset=preset, out=Path(preset))  # type: ignore[arg-type]
    model = CharLM(settings.model_of(len(SYMBOLS))).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    record = TrainingRecord(data="none", data_sha256="0" * 64, parameters=count, steps=0, seconds=0, validation_nats={})
    return build(Trained(model, Vocabulary(SYMBOLS), "\n", record), preset, "1", USUAL)


def main() -> int:
    settings = rounds_parser("presets", __doc__, rounds=5, seconds=0.5).parse_args()
    print(describe_machine())
    cases: dict[str, Callable[[], float]] = {}
    parameters = {}
    for preset in PRESETS:
        manifest, files = export_untrained(preset)
        parameters[preset] = manifest.training.parameters
        for precision in USUAL:
            graphs = files[decode_file(precision)], files[full_file(precision)]
            runner = Runner(*graphs, manifest.model, len(SYMBOLS), threads=1)
            for rows in ROWS:
                time = partial(time_graph, runner, manifest, rows, settings.seconds, full=False)
                cases[f"{preset} {precision} {rows}"] = lambda time=time, rows=rows: rows / time()  # type: ignore[misc]
    speeds = {case: statistics.median(values) for case, values in measure_in_turn(cases, settings.rounds).items()}
    print("| preset | parameters | " + " | ".join(f"{p}, {rows} rows" for p in USUAL for rows in ROWS) + " |")
    for preset in PRESETS:
        cells = (f"{speeds[f'{preset} {precision} {rows}']:,.0f}" for precision in USUAL for rows in ROWS)
        print(f"| {preset} | {parameters[preset]:,} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
