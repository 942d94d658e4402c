"""`charstream import`: makes a run, which export takes, of a model that was trained elsewhere."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from bundle.manifest import TrainingRecord, sha256
from bundle.vocabulary import UnknownCharacter, Vocabulary
from charstream.settings import Positional, Settings, fail, parse
from models.data.corpus import Corpus, open_corpus
from models.evaluation.losses import carried_nats
from models.network.char_lm import CharLM
from models.run_folder import BEST, holds_run
from models.runs.foreign.content import find_state_dict, says_relu
from models.runs.foreign.errors import StateDictError, list_some
from models.runs.foreign.safe_load import Loaded, load_content
from models.runs.foreign.vocabularies import ForeignVocabulary, from_checkpoint, from_file
from models.runs.foreign.weights import ForeignModel, model_of
from models.terminal import count_noun, say
from models.training.checkpoint import MODEL, Header, Progress, save

__all__ = ["ImportSettings", "main"]

COMMAND = "charstream import"
MEASURED = 256  # characters that are read of each of up to 128 parts of --data
MOST_MEASURED = 1 << 22  # of the text's beginning


class _Vocabulary(Settings):
    """The vocabulary."""

    vocabulary: Path | None = Field(
        None,
        description='the characters in order: a JSON list, a JSON object {"a": 0, ...}, a text of each one once, '
        "or a pickle such as nanoGPT's meta.pkl",
    )
    data: str | None = Field(
        None, description="a text of the kind that the model was trained on: its loss is measured on it"
    )
    start_text: str | None = Field(
        None, min_length=1, max_length=1, description="every text starts after it (default: newline, or the first one)"
    )


class _Weights(Settings):
    """Facts that the weights do not tell."""

    activation: Literal["tanh", "relu"] = Field("tanh", description="of an nn.RNN")
    weights: str | None = Field(
        None, min_length=1, description="which of the file's models to take, such as the weights or their average"
    )
    head: str | None = Field(
        None, min_length=1, description="name of the head's weight, where embedding and head cannot be told apart"
    )


class ImportSettings(_Weights, _Vocabulary):
    """Brings in a model that was trained elsewhere: embedding or one-hot, nn.LSTM, nn.GRU or nn.RNN, a linear head.

    The file is what torch.save(model.state_dict(), FILE) wrote, a trainer's checkpoint or a whole model, of which no
    code is run, a safetensors file, or NumPy's arrays; the modules may have any names. The vocabulary, in the order of
    the model's numbers, is that of --vocabulary, else the checkpoint's own, else the characters of --data, sorted. Give
    --data to see whether it is the right one.
    """

    state_dict: Annotated[Path, Positional()] = Field(description="the weights, .pt or .safetensors")
    out: Path = Field(description="folder of the run")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ImportSettings, argv, command=COMMAND)
    try:
        data = _read(settings.state_dict)
        loaded = load_content(settings.state_dict, data)
        corpus = open_corpus(settings.data) if settings.data else None
        tensors = _state_dict(settings, loaded)
        foreign, known = _fit(settings, tensors, _vocabularies(settings, loaded.content, corpus))
        config = foreign.model.config
        if (config.cell, config.activation) == ("rnn", "tanh") and says_relu(loaded.content):
            fail(COMMAND, f"{settings.state_dict}: says that its nn.RNN is of relu: give --activation relu")
        vocabulary = known.vocabulary
        start_text = _start_text(vocabulary, settings.start_text or known.start)
        verdict = _measure(foreign.model, vocabulary, start_text, corpus) if corpus else ""
        _save(settings, foreign.model, vocabulary, start_text, data)
    except ValueError as error:
        fail(COMMAND, str(error))
    except OSError as error:
        fail(COMMAND, f"{error.filename or settings.out}: {error.strerror or error}", code=1)
    print(
        f"{settings.out}: {config.cell} with {count_noun(config.layers, 'layer')} of "
        f"{config.hidden}, {config.input} input, {len(vocabulary)} characters"
    )
    own = [name for name in loaded.origins if not name.startswith("torch.")]
    passed_over = f"read without the code of {list_some(own)}" if own else ""
    for line in [*foreign.remarks, *known.remarks, passed_over, verdict]:
        if line:
            say(line)
    return 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StateDictError(f"{file}: {(error.strerror or str(error)).lower()}") from error


def _state_dict(settings: ImportSettings, loaded: Loaded) -> dict[str, Tensor]:
    file, content = settings.state_dict, loaded.content
    if isinstance(content, Mapping) and content.get("is_forward_lm") is False:
        raise StateDictError(f"{file}: a model of texts from their end to their beginning, as its is_forward_lm says")
    try:
        return find_state_dict(file, content, settings.weights)
    except StateDictError as error:
        if not loaded.origins:
            raise
        load = f"content = torch.load({str(file)!r}, map_location='cpu', weights_only=False)"
        save = "torch.save(content.state_dict(), 'weights.pt')"
        raise StateDictError(
            f"{error}; it holds {list_some(loaded.origins)}, and code of files is not run here; where you trust the "
            f"file, two lines of Python beside that code extract the weights: {load}; {save}"
        ) from error


def _fit(
    settings: ImportSettings, tensors: Mapping[str, Tensor], vocabularies: Sequence[ForeignVocabulary]
) -> tuple[ForeignModel, ForeignVocabulary]:
    """Return the model with the first vocabulary that has as many characters as the model."""
    errors = []
    for known in vocabularies:
        try:
            size, activation, head = len(known.vocabulary), settings.activation, settings.head
            return model_of(tensors, size, activation, head=head, padding=known.padding), known
        except StateDictError as error:
            errors.append(error)
    raise errors[0]


def _vocabularies(settings: ImportSettings, content: Any, corpus: Corpus | None) -> list[ForeignVocabulary]:
    """Return the vocabulary by --vocabulary, else the checkpoint's, else that of --data; perhaps two to choose from."""
    if settings.vocabulary:
        return from_file(settings.vocabulary, _read(settings.vocabulary))
    own = from_checkpoint(settings.state_dict, content)
    if own:
        return [own]
    if corpus:
        return [ForeignVocabulary(corpus.vocabulary)]
    raise StateDictError(
        f"{settings.state_dict} holds no vocabulary: give --vocabulary, the characters in the order of the model's "
        "numbers, or --data, if that is the sorted characters of a text"
    )


def _measure(model: CharLM, vocabulary: Vocabulary, start_text: str, corpus: Corpus) -> str:
    """Return in a line what the model loses on a text, and what that means if it is no less than by chance."""
    try:
        token_of = vocabulary.symbols_to_tokens(corpus.vocabulary.symbols)
    except UnknownCharacter as error:
        return f"not measured on {corpus.path}: {error}"
    start = int(vocabulary.symbols_to_tokens(start_text)[0])
    ids, chance = token_of[corpus.ids[:MOST_MEASURED]], math.log(len(vocabulary))
    nats = carried_nats(model, ids, start, limit=MEASURED)
    loss = f"{nats:.3f} nats per character on {corpus.path}"
    if nats < chance:
        return f"{loss}; guessing loses {chance:.3f}"
    return (
        f"warning: {loss}, no better than guessing (ln {len(vocabulary)} = {chance:.3f}): the vocabulary is probably "
        "in another order than the model's numbers, as after set(text) in Python; --vocabulary takes the trainer's own"
    )


def _start_text(vocabulary: Vocabulary, wanted: str | None) -> str:
    if wanted and wanted not in vocabulary.symbols:
        raise StateDictError(f"--start-text {wanted!r} is not in the vocabulary")
    return wanted or ("\n" if "\n" in vocabulary.symbols else vocabulary.symbols[0])


def _save(settings: ImportSettings, model: CharLM, vocabulary: Vocabulary, start_text: str, data: bytes) -> None:
    folder = settings.out
    if holds_run(folder):
        raise StateDictError(f"{folder} holds a run; --out names another folder")
    folder.mkdir(parents=True, exist_ok=True)
    record = TrainingRecord(
        data=f"not known; the weights are of {settings.state_dict.name}",
        data_sha256=sha256(data),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=0,
        seconds=0,
        validation_nats={},
    )
    header = Header(
        model=model.config,
        symbols=vocabulary.symbols,
        unit=vocabulary.unit,
        start_text=start_text,
        training=record,
        progress=Progress(),
    )
    save(folder, BEST, header, {MODEL + name: tensor for name, tensor in model.state_dict().items()})


if __name__ == "__main__":
    sys.exit(main())
