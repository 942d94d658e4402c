"""Both protocols give every symbol the loss that their definition gives it."""

import numpy as np
import pytest
import torch
from torch import nn

from models.evaluation import losses as reading
from models.evaluation.losses import TorchEvaluator, carried_losses, carried_mean, windows_losses
from models.network.char_lm import CharLM, ModelConfig
from models.terminal import ProgressBar


def _model(cell: str = "lstm", layers: int = 2) -> CharLM:
    torch.manual_seed(1)
    return CharLM(ModelConfig(cell=cell, vocab=7, layers=layers, hidden=16, embedding=4)).eval()  # type: ignore[arg-type]


def _ids(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(7, size=count).astype(np.uint8)


@torch.inference_mode()
def _alone(model: CharLM, ids: np.ndarray) -> np.ndarray:
    """Losses of a reader that takes all of a text, which begins with what is not predicted."""
    text = torch.from_numpy(ids.astype(np.int64))[:, None]
    logits, _ = model(text[:-1], model.initial_state(1))
    return nn.functional.cross_entropy(logits.flatten(0, 1), text[1:].flatten(), reduction="none").numpy()


@pytest.mark.parametrize("count", [1, 2, 511, 512, 1024, 2000, 5003])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_carried_losses_are_those_of_one_reader(cell: str, count: int) -> None:
    model, ids = _model(cell), _ids(count)
    with ProgressBar("test", "") as bar:
        found = carried_losses(TorchEvaluator(model), ids, 3, bar)
    np.testing.assert_allclose(found, _alone(model, np.concatenate([[3], ids])), atol=1e-5)


def test_a_model_that_never_forgets_is_read_from_the_beginning_too() -> None:
    """Its first character shows for ever, so parts that begin in the middle have to wait for the one before them."""
    model, ids = _model(), _ids(4000)
    ids[:40] = 0
    with torch.no_grad():
        for layer in model.layers:
            layer.bias_ih[16:32] = 40.0  # forget gates that are open
            layer.bias_ih[:16] = -6.0  # input gates that hardly are
        model.head.weight.mul_(20)
    with ProgressBar("test", "") as bar:
        found = carried_losses(TorchEvaluator(model), ids, 3, bar)
    expected = _alone(model, np.concatenate([[3], ids]))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert abs(carried_mean(TorchEvaluator(model), ids, 3) - expected.mean()) > 2e-3  # the parts are not joined there


@pytest.mark.parametrize(("count", "windows"), [(33, 1), (64, 1), (65, 2), (32 * 300 + 5, 300)])
def test_windows_are_read_cold(count: int, windows: int) -> None:
    model, ids = _model(), _ids(count)
    with ProgressBar("test", "") as bar:
        found = windows_losses(TorchEvaluator(model), ids, 32, bar)
    assert found.shape == (windows, 32)
    for number in (0, windows // 2, windows - 1):
        np.testing.assert_allclose(found[number], _alone(model, ids[number * 32 : number * 32 + 33]), atol=1e-5)


def test_a_model_of_constant_logits_loses_what_is_computed_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): log 2 for the first symbol, 2 log 2 for the others."""
    model = CharLM(ModelConfig(vocab=3, layers=1, hidden=4, embedding=2))
    nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.5, 0.25, 0.25]).log())
    ids = np.array([0, 1, 2, 0, 0, 2, 1, 0])
    with ProgressBar("test", "") as bar:
        carried = carried_losses(TorchEvaluator(model), ids, 0, bar)
        windows = windows_losses(TorchEvaluator(model), ids, 3, bar)
    log2 = np.log(2)
    np.testing.assert_allclose(carried, log2 * np.array([1, 2, 2, 1, 1, 2, 2, 1]), rtol=1e-6)
    np.testing.assert_allclose(windows, log2 * np.array([[2, 2, 1], [1, 2, 2]]), rtol=1e-6)


def test_few_logits_at_a_time_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = _model(), _ids(1500)
    with ProgressBar("test", "") as bar:
        whole = carried_losses(TorchEvaluator(model), ids, 3, bar)
        monkeypatch.setattr(reading, "LOGITS", 50)
        pieces = carried_losses(TorchEvaluator(model), ids, 3, bar)
    np.testing.assert_allclose(pieces, whole, atol=1e-6)
