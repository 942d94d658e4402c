"""`charstream advise`: says which preset to train on a text, for how long, and what loss to expect."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from bundle.vocabulary import Unit, singular
from charstream.settings import Settings, fail, parse
from charstream.versions import instruction_sets, processor
from models.advice.known_runs import KNOWN, Expectation, KnownRun, expect, most_readings
from models.advice.text_facts import TextFacts, guessing_nats, look_at_text
from models.data.corpus import Corpus, open_corpus
from models.data.split import DEFAULT_SPLIT
from models.data.text_files import PLAIN, CorpusError, TextForm
from models.runs.start import new_trainer
from models.terminal import count_noun, say, table
from models.training.autotune import fastest_arithmetic
from models.training.settings import TrainSettings, train_command

__all__ = ["AdviseSettings", "main"]

COMMAND = "charstream advise"
PROBE_SECONDS, PROBE_STEPS = 0.5, 3  # of each preset, at least
TRAINING_SHARE = 0.85  # of the minutes; checks, the last validation and the start take the rest
FEWEST_WINDOWS = 4  # of a stream: a text of fewer is read in fewer streams
MANY = 1_000  # different characters, from which on bytes are worth a thought
MUCH_REPEATED = 0.2


class AdviseSettings(Settings):
    """Says what to train on a text: which preset, how long, and what loss to expect, from the project's own runs.

    It looks at the text, and times a few steps of each preset on this machine. Nothing is trained or written.
    """

    stray_word: ClassVar = "the text is --data FILE"

    data: str = Field(min_length=1, description="shakespeare, tinyshakespeare, a text file, a folder, or a URL")
    minutes: float = Field(30.0, gt=0, description="time there is for training")
    vocabulary: Unit = Field("characters", description="what is predicted: code points or UTF-8 bytes")
    split: str = Field(DEFAULT_SPLIT, description="shares of the text: training,validation or training,validation,test")
    glob: str = Field(PLAIN.glob, min_length=1, description="names of the files that a folder's text is in")
    encoding: str = Field(PLAIN.encoding, min_length=1, description="of the text's files, such as utf-16 or cp1252")
    json_: bool = Field(False, description="print it as JSON")


class Choice(NamedTuple):
    """One preset on this text and this machine.

    Attributes:
        speed: characters a second.
        characters: trained on in the time, or in as many readings as are of use.
    """

    settings: TrainSettings
    speed: float
    characters: float
    expectation: Expectation

    @property
    def minutes(self) -> float:
        return self.characters / self.speed / 60 / TRAINING_SHARE

    def facts(self) -> dict[str, Any]:
        return {
            "preset": self.settings.preset,
            "chars_per_second": self.speed,
            "characters": round(self.characters),
            "minutes": self.minutes,
            **self.expectation._asdict(),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0; exit with 2 for a text that cannot be read or trained on."""
    settings = parse(AdviseSettings, argv, command=COMMAND)
    try:
        form = TextForm(settings.glob, settings.encoding)
        corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=form)
        facts = look_at_text(corpus)
        say("timing a few steps of each preset")
        choices = [_choice(settings, corpus, facts, preset) for preset in KNOWN]
    except CorpusError as error:
        fail(COMMAND, str(error))
    best = min(choices, key=lambda choice: choice.expectation.nats)
    if settings.json_:
        presets = [choice.facts() for choice in choices]
        print(json.dumps({"text": facts._asdict(), "presets": presets, "command": train_command(best.settings)}))
    else:
        print("\n".join(_lines(settings, corpus, facts, choices, best)))
    return 0


def _choice(given: AdviseSettings, corpus: Corpus, facts: TextFacts, preset: str) -> Choice:
    settings = _train_settings(given, facts, preset)
    speed = _chars_per_second(settings, corpus)
    characters = min(speed * given.minutes * 60 * TRAINING_SHARE, float(settings.characters or 0))
    expectation = expect(preset, characters, facts.packed, most=guessing_nats(facts.distinct))
    return Choice(settings, speed, characters, expectation)


def _train_settings(given: AdviseSettings, facts: TextFacts, preset: str) -> TrainSettings:
    """Return a preset's settings with the text and both bounds: the minutes, and the readings that are of use."""
    own: dict[str, Any] = {
        name: value
        for name in ("data", "vocabulary", "split", "glob", "encoding")
        if (value := getattr(given, name)) != TrainSettings.model_fields[name].default
    }
    usual = TrainSettings(preset=preset, out=Path("runs/mine"))
    batch = max(1, min(usual.batch, facts.training // (FEWEST_WINDOWS * usual.sequence)))
    if batch != usual.batch:
        own["batch"] = batch
    characters = max(usual.sequence, int(most_readings(preset) * facts.training))
    return TrainSettings(preset=preset, out=usual.out, minutes=given.minutes, characters=characters, **own)


def _chars_per_second(settings: TrainSettings, corpus: Corpus) -> float:
    """Time steps in the arithmetic that training would take here."""
    trainer = new_trainer(settings, corpus)
    trainer.arithmetic = fastest_arithmetic(trainer)
    seconds, began = list[float](), time.perf_counter()
    while len(seconds) < PROBE_STEPS or time.perf_counter() - began < PROBE_SECONDS:
        before = time.perf_counter()
        trainer.train_step(learning_rate=0.0)
        seconds.append(time.perf_counter() - before)
    return settings.batch * trainer.streams.sequence / median(seconds)


def _lines(
    given: AdviseSettings, corpus: Corpus, facts: TextFacts, choices: Sequence[Choice], best: Choice
) -> list[str]:
    unit, rows = singular(facts.unit), [_row(choice, facts) for choice in choices]
    head = (f"{count_noun(given.minutes, 'minute')} of", f"{facts.unit}/s", facts.unit, "readings", "minutes", "nats")
    expected = best.expectation
    return [
        f"text: {corpus.name}: {facts}",
        f"machine: {processor()} ({', '.join(instruction_sets()) or 'unknown instruction sets'}), as busy as it is now",
        "",
        table(head, rows),
        "",
        f"take {best.settings.preset}:",
        f"  {train_command(best.settings)}",
        f"expect {expected.nats:.2f} nats a {unit} of the held-out part ({expected.low:.2f} to {expected.high:.2f}).",
        *_cautions(facts, best, corpus.shortage),
    ]


def _row(choice: Choice, facts: TextFacts) -> list[str]:
    readings = choice.characters / max(1, facts.training)
    nats = f"{choice.expectation.nats:.2f}{'?' * choice.expectation.is_beyond}"
    sizes = (f"{choice.speed:,.0f}", f"{choice.characters:,.0f}", f"{readings:.1f}", f"{choice.minutes:.1f}", nats)
    return [choice.settings.preset, *sizes]


def _cautions(facts: TextFacts, best: Choice, shortage: str) -> list[str]:
    """Return what the table of runs has not seen of this text, this time and this machine."""
    texts = sorted({run.text for runs in KNOWN.values() for run in runs})
    lines = [
        f"This rests on {sum(map(len, KNOWN.values()))} runs on {' and '.join(texts)}, English plays of a few million "
        "characters;\nfor another text the loss is taken to be in proportion to what bz2 makes of it.",
    ]
    if best.expectation.is_beyond:
        runs = KNOWN[best.settings.preset]
        lines.append(
            f"?: its runs trained on {_span(runs)} characters, not {best.characters:,.0f}: the figure is a guess there."
        )
    if best.characters < (best.settings.characters or 0):
        lines.append("The minutes end the run; --characters is where reading on would do no good.")
    if shortage:
        lines.append(f"{shortage}.")
    if facts.repeated > MUCH_REPEATED:
        lines.append(
            f"{facts.repeated:.0%} of the text are lines that come again: the held-out part has some of the training "
            "part's, and its loss flatters."
        )
    if facts.unit == "characters" and facts.distinct > MANY:
        lines.append(f"{facts.distinct:,} different characters make large tables: try --vocabulary bytes as well.")
    return lines


def _span(runs: Sequence[KnownRun]) -> str:
    first, last = runs[0].characters, runs[-1].characters
    return f"{first:,.0f}" if first == last else f"{first:,.0f} to {last:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
