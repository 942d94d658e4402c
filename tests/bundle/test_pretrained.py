"""The models that come with charstream: small, whole, as good as their cards say, and easy to have."""

from pathlib import Path

import pytest

from bundle.pretrained import DEFAULT, FOLDER, locate, names
from bundle.read import Bundle, read_bundle
from export.verification.onnx_evaluator import open_evaluator
from models.evaluation.losses import carried_mean
from tests.conftest import Charstream

MOST_BYTES = 8_000_000
# From the part of the works that the model was not trained on.
HELD_OUT = """\
Now, my fair'st friend,
I would I had some flowers o' the spring that might
Become your time of day;--and yours, and yours,
That wear upon your virgin branches yet
Your maidenheads growing.--O Proserpina,
For the flowers now that, frighted, thou lett'st fall
From Dis's waggon!--daffodils,
That come before the swallow dares, and take
The winds of March with beauty; violets dim
But sweeter than the lids of Juno's eyes
Or Cytherea's breath; pale primroses,
That die unmarried ere they can behold
Bright Phoebus in his strength,--a malady
Most incident to maids; bold oxlips, and
The crown-imperial; lilies of all kinds,
The flower-de-luce being one.--O, these I lack,
To make you garlands of; and, my sweet friend,
To strew him o'er and o'er!
"""


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return read_bundle(FOLDER / DEFAULT)


def test_what_comes_with_charstream_is_small_and_says_what_it_is(shipped: Bundle) -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    assert names() == [DEFAULT]
    assert (shipped.manifest.name, shipped.manifest.precisions) == (DEFAULT, ("int8",))
    card = shipped.files["card.md"].decode()
    assert f"sha256 `{shipped.manifest.training.data_sha256}`" in card
    assert "public domain" in card
    assert "charstream train " in card


def test_it_reads_shakespeare_as_its_card_says_and_8_bits_cost_nothing(shipped: Bundle) -> None:
    vocabulary = shipped.manifest.vocabulary
    ids, start = vocabulary.encode(HELD_OUT), int(vocabulary.encode(shipped.manifest.start_text)[0])
    exact, reduced = (carried_mean(open_evaluator(shipped, precision), ids, start) for precision in ("fp32", "int8"))
    assert exact < shipped.manifest.training.validation_nats["carried"] + 0.4  # a short passage, and a rich one
    assert reduced == pytest.approx(exact, abs=0.003)


def test_a_copy_is_the_same_bundle_and_nothing_is_lost_for_it(
    charstream: Charstream, shipped: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert charstream("pretrained", "get", DEFAULT).returncode == 0
    assert read_bundle(tmp_path / "bundles" / DEFAULT).digest == shipped.digest
    again = charstream("pretrained", "get")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "--overwrite replaces it" in again.stderr
    assert charstream("pretrained", "get", "--overwrite").returncode == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    refused = charstream("pretrained", "get", "--out", mine, "--overwrite")
    assert refused.returncode == 1
    assert "notes.txt, which is no part of a bundle" in refused.stderr
    assert (mine / "notes.txt").read_text() == "mine"


def test_the_list_has_figures_and_the_path_is_a_folder_of_graphs(charstream: Charstream, shipped: Bundle) -> None:
    listed = charstream("pretrained")
    nats = shipped.manifest.training.validation_nats["carried"]
    assert listed.stdout.startswith(f"{DEFAULT}: gru 1x")
    assert f"{nats:.4f} nats" in listed.stdout
    assert Path(charstream("pretrained", "path").stdout.strip()) == FOLDER / DEFAULT
    unknown = charstream("pretrained", "get", "dickens")
    assert unknown.returncode == 2
    assert f"no model 'dickens' comes with charstream; there are {DEFAULT}" in unknown.stderr


def test_pretrained_is_a_name_unless_it_is_a_bundle_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(Path("pretrained")) == locate(Path("pretrained/shakespeare")) == FOLDER / DEFAULT
    for other in ("pretrained/dickens", "pretrained/shakespeare/x", "runs/pretrained", "."):
        assert locate(Path(other)) == Path(other)
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "manifest.json").write_text("{}")
    assert locate(Path("pretrained")) == Path("pretrained")
