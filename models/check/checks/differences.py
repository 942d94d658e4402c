"""The gradients of every cell in float64, compared with central differences."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import NO_DROPOUT, Subject
from models.network.char_lm import CharLM
from models.network.config import Activation, Form, ModelConfig
from models.reporting.style import COLOURS, figure, legend

__all__ = ["check", "relative_error"]

STEP = 1e-5  # of a difference: its own error is about STEP^2 = 1e-10, that of rounding 1e-16 / STEP = 1e-11
TENSOR_FLOOR = 1e-6  # errors of gradients with a smaller norm are relative to this
GOOD, BAD = 1e-6, 1e-4
SAMPLE = 12  # elements of a tensor: each costs two losses
SIZES = {"vocab": 5, "layers": 2, "hidden": 4, "embedding": 3}
STEPS, STREAMS = 4, 2


class GradientError(NamedTuple):
    """The largest relative error of a model's gradients, and the tensor that has it."""

    name: str
    error: float
    tensor: str


def check(subject: Subject) -> Outcome:
    results = [GradientError(name, *relative_error(_small(config))) for name, config in _configs(subject.config)]
    return Outcome(
        (_judge(results),),
        {"relative_error": {result.name: result.error for result in results}, "step": STEP},
        lambda: _draw(results),
    )


def relative_error(model: CharLM) -> tuple[float, str]:
    """Return the largest ||a - n|| / (||a|| + ||n||) of a tensor, a by backpropagation, n by central differences.

    Norms are over a sample of a tensor's elements: a single element that is nearly zero could have any relative error.

    Args:
        model: of float64, without dropout.

    Returns:
        The error and the tensor's name.
    """
    ids = torch.randint(model.config.vocab, (STEPS + 1, STREAMS), generator=torch.Generator().manual_seed(1))
    state = tuple(
        torch.linspace(-0.5, 0.5, tensor.numel()).double().view_as(tensor) for tensor in model.initial_state(STREAMS)
    )

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(ids[:-1], state)[0].flatten(0, 1), ids[1:].flatten())

    weights = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss(), tuple(weights.values()))
    errors = {}
    for (name, tensor), gradient in zip(weights.items(), gradients, strict=True):
        places = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(2))[:SAMPLE]
        errors[name] = _difference(gradient.flatten()[places], _numeric(tensor, places, loss))
    worst = max(errors, key=errors.__getitem__)
    return errors[worst], worst


@torch.no_grad()
def _numeric(tensor: Tensor, places: Tensor, loss: Callable[[], Tensor]) -> Tensor:
    """Return d loss / d tensor at some places of the flattened tensor, by central differences."""
    flat, slopes = tensor.view(-1), []
    for place in places.tolist():
        value = flat[place].item()
        flat[place] = value + STEP
        above = loss()
        flat[place] = value - STEP
        slopes.append((above - loss()) / (2 * STEP))
        flat[place] = value
    return torch.stack(slopes)


def _difference(a: Tensor, n: Tensor) -> float:
    return ((a - n).norm() / max(TENSOR_FLOOR, float(a.norm() + n.norm()))).item()


def _configs(chosen: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    """Yield small models of every cell, and one with the chosen options, each with its name."""
    for cell in ("lstm", "gru"):
        yield cell, ModelConfig(cell=cell, **SIZES)
    for form in get_args(Form):
        for activation in get_args(Activation):
            yield f"rnn {activation} {form}", ModelConfig(cell="rnn", activation=activation, form=form, **SIZES)
    yield "as configured", chosen.model_copy(update={**SIZES, **NO_DROPOUT, "layers": min(3, chosen.layers)})


def _small(config: ModelConfig) -> CharLM:
    """Return a model in float64, with weights so large that the nonlinearities bend, unlike torch's first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CharLM(config).double()
        for tensor in model.parameters():
            if tensor.requires_grad:
                nn.init.normal_(tensor, std=0.5)
    return model


def _judge(results: list[GradientError]) -> Finding:
    name, error, tensor = max(results, key=lambda result: result.error)
    text = f"backpropagation and central differences agree within {error:.1e} in {len(results)} models (worst: {name})"
    if error <= GOOD:
        return ok(text)
    text = f"{name}: the gradient of {tensor} differs from central differences by {error:.1e} of its size"
    if error <= BAD:
        return warning(f"{text}: look whether a kink of the activation lies there")
    return failure(f"{text}: its backward pass is wrong")


def _draw(results: list[GradientError]) -> Figure:
    drawn, (axes,) = figure(size=(7.5, 5.5), title="Gradients against central differences, float64")
    names = [result.name for result in results]
    axes.barh(names, [max(result.error, 1e-16) for result in results], color=COLOURS[0], height=0.7)
    axes.axvline(GOOD, color=COLOURS[2], label=f"good: below {GOOD:g}")
    axes.axvline(BAD, color=COLOURS[1], label=f"wrong: above {BAD:g}")
    axes.set_xscale("log")
    axes.set_xlabel("relative error of the worst tensor, ||a - n|| / (||a|| + ||n||)")
    axes.set_ylabel("model")
    axes.invert_yaxis()
    axes.margins(y=0.02)
    legend(axes)
    return drawn
