"""A student learns from the mean of its teachers' probabilities, place by place of the text."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from charstream.settings import parse
from models.data.corpus import Corpus, open_corpus
from models.runs import teachers
from models.runs.bundle_model import load_model
from models.runs.start import new_trainer
from models.runs.teachers import teach
from models.train import main
from models.training.checkpoint import Trained, read
from models.training.settings import TrainSettings, train_command
from tests.models.conftest import SMALL

Train = Callable[..., Path]
# Plain gradient descent, so that a step shows the gradient.
DESCENT = ("--optimizer", "sgd", "--clip-norm", "0", "--weight-decay", "0", "--dropout", "0")


def _settings(verse: Path, out: Path, *flags: str) -> TrainSettings:
    given = ["--data", str(verse), "--out", str(out), *SMALL, *flags]
    return parse(TrainSettings, given, command="charstream train")


def _teachers(*folders: Path) -> list[str]:
    return [word for folder in folders for word in ("--distill-from", str(folder))]


@torch.no_grad()
def _read_alone(trained: Trained, corpus: Corpus, symbols: int) -> torch.Tensor:
    """Return a model's probabilities of the first symbols of a text, read in one stream, [symbols, V]."""
    before = corpus.start_text + corpus.vocabulary.decode(corpus.training[: symbols - 1])
    ids = torch.from_numpy(trained.vocabulary.encode(before))
    logits, _ = trained.model(ids[:, None], trained.model.initial_state(1))
    return logits[:, 0, torch.from_numpy(trained.vocabulary.encode(corpus.vocabulary.symbols))].softmax(-1)


def test_a_step_is_that_of_the_sum_by_hand(verse: Path, train: Train, tmp_path: Path, bundles: Path) -> None:
    """The teachers are of two kinds: a run, and a bundle that knows more characters than the text has."""
    teacher = train("--cell", "gru", "--steps", "20", name="teacher")
    words = (*_teachers(teacher, bundles / "tiny"), "--distill-weight", "0.7")
    settings = _settings(verse, tmp_path / "student", *DESCENT, *words)
    corpus = open_corpus(settings.data)
    taught = teach(settings, corpus)
    assert taught is not None
    assert taught.rows.shape == (len(corpus.training), len(corpus.vocabulary))
    alone = [_read_alone(load_model(path), corpus, 300) for path in settings.distill_from]
    torch.testing.assert_close(taught.rows[:300].float(), sum(alone) / 2, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(taught.rows.float().sum(-1), torch.ones(len(taught.rows)), atol=2e-3, rtol=0)

    trainer = new_trainer(settings, corpus, taught=taught)
    x, y = trainer.streams.window(0)
    stripes = torch.arange(settings.batch) * ((len(corpus.training) - 1) // settings.batch)
    q = taught.rows[stripes + 1 + torch.arange(settings.sequence)[:, None]].float()
    log_p = trainer.model(x, trainer.model.initial_state(settings.batch))[0].log_softmax(-1)
    of_text, of_teachers = -log_p.gather(-1, y[..., None]).mean(), -(q * log_p).sum(-1).mean()
    weights = trainer.trainable
    gradients = torch.autograd.grad(0.3 * of_text + 0.7 * of_teachers, weights)
    expected = [weight.detach() - 0.5 * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    outcome = trainer.train_step(0.5)
    assert outcome.loss == pytest.approx(of_text.item(), abs=1e-6)  # what is shown is the loss against the text
    torch.testing.assert_close([weight.detach() for weight in weights], expected, atol=1e-6, rtol=1e-5)


def test_a_run_goes_on_without_its_teachers_while_their_file_lies_in_the_cache(
    verse: Path, train: Train, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, other = train("--steps", "2", name="teacher"), train("--steps", "3", name="other")
    student = train(*_teachers(teacher), "--steps", "3", name="student")
    distillation = read(student)[0].progress.distillation
    assert distillation is not None
    assert f"--distill-from {teacher}" in train_command(read(student)[0].settings or pytest.fail("no settings"))
    teacher.rename(tmp_path / "kept")
    again = ["--out", str(student), "--resume"]
    assert main(again) == 0
    shutil.rmtree(cache / "teachers")
    other.rename(teacher)
    for words in (again, [*again, *_teachers(tmp_path / "kept")]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
    errors = capsys.readouterr().err
    assert f"--distill-from {teacher}: is another model than when the run began" in errors
    assert "was begun with distill-from" in errors
    shutil.rmtree(teacher)
    (tmp_path / "kept").rename(teacher)
    assert main(again) == 0
    assert "bit by bit" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--distill-weight", "0.7"), "--distill-from RUN gives a teacher"),
        (("--distill-from", "nowhere"), "nowhere: no checkpoint there"),
        (("--distill-from", "{few}"), r"it does not know 2 characters of the text, '!' first"),
        (("--distill-from", "{few}", "--vocabulary", "bytes"), "it predicts characters, and this run bytes"),
        (("--distill-from", "{teacher}"), "GB; at most 0.0 GB: make the part smaller by --split"),
    ],
)
def test_what_cannot_teach_is_refused_before_the_folder_is_touched(
    words: tuple[str, ...],
    message: str,
    verse: Path,
    tmp_path: Path,
    cache: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"few": tmp_path / "few", "teacher": tmp_path / "teacher"}
    for name in names:
        if f"{{{name}}}" in words:
            text = tmp_path / f"{name}.txt"
            text.write_text(
                verse.read_text().replace("!", "?").replace("v", "w") if name == "few" else verse.read_text()
            )
            train("--data", str(text), "--steps", "1", name=name)
    monkeypatch.setattr(teachers, "MOST_BYTES", 1000)
    flags = [word.format(**names) for word in words]
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(verse), "--out", str(tmp_path / "student"), *SMALL, "--steps", "1", *flags])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "student").exists()
    assert not [file for file in (cache / "teachers").glob("*") if file.is_file()]
