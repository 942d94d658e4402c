"""A student learns from the mean of its teachers' probabilities, place by place of the text."""

import fcntl
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from charstream.settings import parse
from export.evaluate import main as evaluate
from models.data.corpus import Corpus, open_corpus
from models.runs import teachers
from models.runs.bundle_model import load_model
from models.runs.start import new_trainer
from models.runs.teachers import read_ahead, teach
from models.train import main
from models.training.checkpoint import CheckpointError, Trained, read, save
from models.training.schedule import TooShort
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
    assert f"was begun with distill-from {teacher}, not {tmp_path / 'kept'}: leave it out" in errors
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
        # What cannot be trained is told of before the teachers read, which takes minutes.
        (("--distill-from", "{teacher}", "--batch", "9999"), "would do"),
        (("--distill-from", "{teacher}", "--init-from", "{teacher}", "--layers", "2"), "here it is"),
        (("--distill-from", "{teacher}", "--minutes", "0.001"), "--minutes 0.001 is too short"),
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
    length = [] if "--minutes" in words else ["--steps", "1"]
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(verse), "--out", str(tmp_path / "student"), *SMALL, *length, *flags])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "student").exists()
    assert not list((cache / "teachers").glob("*float16*"))


def test_a_teacher_is_no_run_to_replace(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = train("--steps", "1", name="teacher")
    for path in (teacher, teacher / "last.json"):
        with pytest.raises(CheckpointError, match=r"teacher would replace it: name another --out"):
            train("--steps", "1", "--overwrite", "--distill-from", str(path), name="teacher")
    assert load_model(teacher).record.steps == 1


def test_a_damaged_file_is_made_anew_and_what_a_killed_process_left_goes(
    verse: Path, train: Train, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(verse, tmp_path / "student", *_teachers(train("--steps", "1", name="teacher")))
    corpus = open_corpus(settings.data)
    first = teach(settings, corpus)
    assert first is not None
    (file,) = (cache / "teachers").glob("*.float16")
    whole = file.read_bytes()
    left = file.with_name(f".{file.name}.1.new")
    for damaged in (whole[:-2], whole[:1000] + b"?" + whole[1001:]):
        file.unlink()  # another file, as the first one is mapped
        file.write_bytes(damaged)
        left.write_bytes(b"half")
        again = teach(settings, corpus, before=first.record)
        assert again is not None
        assert again.record == first.record
        assert file.read_bytes() == whole
        assert not left.exists()
        said = capsys.readouterr().err
        assert "is not what was written: the teachers read the text again" in said
        assert "bit by bit" not in said


def test_of_two_that_want_the_same_teachers_one_lets_them_read(
    verse: Path, train: Train, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(verse, tmp_path / "student", *_teachers(train("--steps", "1", name="teacher")))
    corpus = open_corpus(settings.data)
    assert teach(settings, corpus) is not None
    (file,) = (cache / "teachers").glob("*.float16")
    kept = file.rename(tmp_path / "kept")
    with file.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as other:
            second = other.submit(teach, settings, corpus)
            deadline = time.monotonic() + 120
            while "waiting for it" not in capsys.readouterr().err:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            kept.rename(file)  # what the other process made meanwhile
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.result() is not None
    assert "the teachers lose" not in capsys.readouterr().err


def test_teachers_that_would_take_longer_than_the_run_are_refused_and_a_comparison_does_not_count_them(
    verse: Path, train: Train, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "FIRST_LOOK", 0.0)
    words = (*_teachers(train("--steps", "1", name="teacher")), "--minutes", "0.00001")
    settings = _settings(verse, tmp_path / "student", *words)
    with pytest.raises(TooShort, match=r"--minutes 1e-05 is too short: the teachers alone would take .* would do"):
        teach(settings, open_corpus(settings.data))
    assert not list((cache / "teachers").glob("*float16*"))
    read_ahead(settings)
    assert list((cache / "teachers").glob("*.float16"))


def test_a_teacher_without_numbers_is_refused(verse: Path, train: Train, tmp_path: Path, cache: Path) -> None:
    teacher = train("--steps", "1", name="teacher")
    header, tensors = read(teacher)
    save(teacher, "best", header, {**tensors, "model.head.bias": tensors["model.head.bias"] * torch.nan})
    settings = _settings(verse, tmp_path / "student", *_teachers(teacher))
    with pytest.raises(CheckpointError, match=r"--distill-from .*teacher: what comes out is no number"):
        teach(settings, open_corpus(settings.data))
    assert not list((cache / "teachers").glob("*float16*"))


def test_models_that_were_trained_on_what_is_held_out_are_named(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their loss there would flatter: that of a student, of a run that goes on from one, and of a mean with one."""
    teacher = train("--steps", "1", name="teacher")
    words = (*_teachers(teacher), "--init-from", str(teacher))
    same = train(*words, "--steps", "1", name="same")
    assert "flatters" not in capsys.readouterr().err
    student = train(*words, "--steps", "1", "--split", "0.8,0.2", name="student")
    said = capsys.readouterr().err
    for flag in ("--init-from", "--distill-from"):
        assert f"{flag} {teacher} was trained with --split 0.9,0.1: it knows some of the text that is held out" in said
    assert evaluate([str(student), str(teacher)]) == 0
    assert f"run {teacher} was trained with --split 0.9,0.1: it knows some" in capsys.readouterr().err
    for quiet in ([str(teacher), str(student)], [str(teacher), str(same)]):
        assert evaluate(quiet) == 0
        assert "it knows some" not in capsys.readouterr().err
