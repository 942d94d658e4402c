"""The table of presets in docs/training.md: what each one learns, what that takes, and what a character costs to serve.

    python -m benchmarks.presets --runs runs/presets [--data tinyshakespeare] [--picture docs/pictures/presets.png]

Each preset is trained once, into RUNS/NAME, on one thread and one text: as many characters as it says itself, or else
5 million; a run that is there is taken, and one that was stopped is gone on with. Minutes are the processor's own for
the training steps, as other work does not change them; validation comes on top. Speeds are those of the decode graph in
one thread, characters a second of all rows together. Without --runs only speeds are measured, of untrained models with
65 characters: they do not depend on what the weights have learnt. All graphs are measured in turn; medians are printed.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes

from benchmarks.speed.graphs import time_graph
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import measure_in_turn, rounds_parser
from bundle.manifest import Manifest, TrainingRecord
from bundle.read import decode_file, full_file
from bundle.vocabulary import Vocabulary
from export.build import USUAL, build
from models.data.corpus import open_corpus
from models.evaluation.losses import TorchEvaluator, windows_losses
from models.network.char_lm import CharLM
from models.network.config import ModelConfig
from models.reporting.style import COLOURS, entitle, figure, legend, save
from models.run_folder import LAST, header_file
from models.runs.start import new_trainer
from models.terminal import ProgressBar
from models.train import train_model
from models.training.autotune import fastest_arithmetic
from models.training.checkpoint import CheckpointError, Trained, load, read
from models.training.settings import TrainSettings
from server.runtime.host_runner import Runner

COMPARED = ("tiny", "demo", "shakespeare", "best", "default")
CHARACTERS = 5_000_000  # to train on, of a preset that does not say how many
ROWS = (1, 64)
WINDOW = 256
STEPS = 5  # of which the fastest tells what training takes
SYMBOLS = "\n" + "".join(map(chr, range(32, 96)))


class Learnt(NamedTuple):
    """What a run of a preset came to: characters trained on, minutes of one core for them, and two losses in nats."""

    characters: int
    minutes: float
    carried: float
    windows: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = rounds_parser("presets", __doc__, rounds=5, seconds=0.5)
    parser.add_argument("--runs", type=Path, help="folder of the runs, one for each preset")
    parser.add_argument("--data", default="tinyshakespeare", help="text of the runs that are not there (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=COMPARED, default=COMPARED, help="presets (all)")
    parser.add_argument("--picture", type=Path, help="also draw losses against speeds, as a PNG file; needs --runs")
    given = parser.parse_args(argv)
    if given.picture and not given.runs:
        parser.error("--picture draws the losses of runs: give their folder by --runs")
    torch.set_num_threads(1)  # two would wait for each other where the machine has other work
    learnt = {preset: learn(preset, given.data, given.runs / preset) for preset in given.only} if given.runs else {}
    served = {preset: load(given.runs / preset) if given.runs else untrained(preset) for preset in given.only}
    speeds = measure_speeds(served, given.rounds, given.seconds)
    print(describe_machine())
    for line in table_lines(served, learnt, speeds):
        print(f"| {' | '.join(line)} |")
    if given.picture:
        draw(learnt, speeds, given.picture)
    return 0


def learn(preset: str, data: str, folder: Path) -> Learnt:
    """Return what the preset's run came to; train it first where that is to do, or go on with it."""
    if not is_finished(folder):
        usual = TrainSettings(preset=preset, data=data, threads=1, out=folder)  # type: ignore[arg-type]
        changes = {"resume": header_file(folder, LAST).exists(), "characters": usual.characters or CHARACTERS}
        train_model(usual.model_copy(update=changes))
    header, _ = read(header_file(folder, LAST))
    assert header.settings
    trained, settings = load(folder), header.settings
    corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=settings.text_form)
    with ProgressBar("windows", " chars", shown=False) as bar:
        windows = windows_losses(TorchEvaluator(trained.model), corpus.validation, WINDOW, bar)
    trainer = new_trainer(settings.model_copy(update={"resume": False, "threads": 1}), corpus)
    trainer.arithmetic = fastest_arithmetic(trainer)
    seconds = []
    for _ in range(STEPS):
        began = time.thread_time()
        trainer.train_step(learning_rate=0.0)
        seconds.append(time.thread_time() - began)
    steps = header.progress.step
    characters = steps * settings.batch * trainer.streams.sequence
    carried = trained.record.validation_nats["carried"]
    return Learnt(characters, steps * min(seconds) / 60, carried, float(windows.mean()))


def is_finished(folder: Path) -> bool:
    try:
        return "carried" in load(folder).record.validation_nats
    except CheckpointError:
        return False


def untrained(preset: str) -> Trained:
    torch.manual_seed(0)
    settings = TrainSettings(preset=preset, out=Path(preset))  # type: ignore[arg-type]
    model = CharLM(settings.model_of(len(SYMBOLS))).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    record = TrainingRecord(data="none", data_sha256="0" * 64, parameters=count, steps=0, seconds=0, validation_nats={})
    return Trained(model, Vocabulary(SYMBOLS), "\n", record)


def measure_speeds(served: Mapping[str, Trained], rounds: int, seconds: float) -> dict[tuple[str, str, int], float]:
    """Return characters a second of all rows together, by preset, precision and rows."""
    cases: dict[str, Callable[[], float]] = {}
    keys = [(preset, precision, rows) for preset in served for precision in USUAL for rows in ROWS]
    for preset, trained in served.items():
        manifest, files = build(trained, preset, "1", USUAL)
        for precision in USUAL:
            graphs = files[decode_file(precision)], files[full_file(precision)]
            runner = Runner(*graphs, manifest.model, len(manifest.symbols), threads=1)
            for rows in ROWS:
                cases[f"{preset} {precision} {rows}"] = partial(rate, runner, manifest, rows, seconds)
    found = measure_in_turn(cases, rounds)
    return {key: statistics.median(found[" ".join(map(str, key))]) for key in keys}


def rate(runner: Runner, manifest: Manifest, rows: int, seconds: float) -> float:
    return rows / time_graph(runner, manifest, rows, seconds, full=False)


def table_lines(
    served: Mapping[str, Trained], learnt: Mapping[str, Learnt], speeds: Mapping[tuple[str, str, int], float]
) -> list[list[str]]:
    """Return the table by lines: its head, the line below that, and a line for each preset."""
    cases = [(precision, rows) for precision in reversed(USUAL) for rows in ROWS]
    of_runs = ["characters", "minutes", "carried", f"windows of {WINDOW}"] if learnt else []
    head = ["preset", "model", "parameters", *of_runs, *(f"{precision} x {rows}" for precision, rows in cases)]
    lines = [head, ["---"] * len(head)]
    for preset, trained in served.items():
        run = learnt.get(preset)
        facts = [f"{run.characters:,}", f"{run.minutes:.1f}", f"{run.carried:.4f}", f"{run.windows:.4f}"] if run else []
        numbers = [f"{speeds[preset, precision, rows]:,.0f}" for precision, rows in cases]
        lines.append([preset, sizes(trained.model.config), f"{trained.record.parameters:,}", *facts, *numbers])
    return lines


def sizes(config: ModelConfig) -> str:
    return f"{config.cell.upper()} {config.layers}x{config.hidden}"


def draw(learnt: Mapping[str, Learnt], speeds: Mapping[tuple[str, str, int], float], path: Path) -> None:
    """Draw what each preset learns against what it serves, one panel for each number of rows."""
    picture, panels = figure(1, len(ROWS), title="Loss and speed of the presets", size=(9.0, 3.4))
    for axes, rows in zip(panels, ROWS, strict=True):
        entitle(axes, "one text" if rows == 1 else f"{rows} texts at once")
        draw_panel(axes, learnt, speeds, rows)
    panels[0].set_ylabel("nats per character, carried")
    legend(panels[-1])
    save(picture, path)


def draw_panel(
    axes: Axes, learnt: Mapping[str, Learnt], speeds: Mapping[tuple[str, str, int], float], rows: int
) -> None:
    for precision, colour in zip(USUAL, COLOURS, strict=False):
        found = [(speeds[preset, precision, rows], run.carried) for preset, run in learnt.items()]
        axes.plot(*zip(*found, strict=True), "o", color=colour, label=precision)
    for preset, run in learnt.items():
        fastest = max(speeds[preset, precision, rows] for precision in USUAL)
        axes.annotate(preset, (fastest, run.carried), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.3, y=0.15)
    axes.set_xlabel("characters a second of one thread")


if __name__ == "__main__":
    sys.exit(main())
