"""A step of the graph computes what the model does, with every option."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch

from bundle.philox import uniforms
from export.build import build
from export.graph.bounds import Unbounded
from export.graph.modules import DecodeGraph, StepGraph
from models.network.activations import ACTIVATIONS
from models.network.generate import generate
from models.training.checkpoint import Trained
from tests.conftest import tiny_model
from tests.export.helpers import with_used_norms

pytestmark = pytest.mark.slow


def every_option() -> Iterator[dict[str, object]]:
    """Each activation in both forms, the gates, and with them all kinds of normalisation, sums and input."""
    others = product(("none", "batch", "layer"), (False, True), ("embedding", "onehot"))
    cells: list[dict[str, object]] = [{"cell": "gru"}, {"cell": "lstm"}]
    cells += [{"cell": cell, "recurrent_norm": "layer"} for cell in ("gru", "lstm", "rnn")]
    maxout = {"cell": "rnn", "activation": "maxout", "recurrent_norm": "layer"}
    cells += [{**maxout, "form": form} for form in ("post", "pre")]
    cells += [{"cell": "rnn", "activation": name, "form": form} for name in ACTIVATIONS for form in ("post", "pre")]
    for cell, (norm, residual, given) in product(cells, others):
        yield {**cell, "norm": norm, "residual": residual, "input": given}


@torch.no_grad()
def test_a_step_of_the_graph_is_the_models_with_every_option() -> None:
    for options in every_option():
        model = with_used_norms(tiny_model(layers=3, hidden=8, **options)).model.double()
        step, state = StepGraph(model).eval(), tuple(torch.rand_like(s) for s in model.initial_state(5))
        token = torch.arange(5)
        logits, *after = step(token, *state)
        expected, expected_after = model(token.unsqueeze(0), state)
        torch.testing.assert_close((logits, *after), (expected[0], *expected_after), msg=str(options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cell": "rnn", "activation": "relu"}, "layers.0 reads its own output again, and relu has no bound"),
        ({"norm": "layer"}, "layers.1 reads what a layer normalisation gives"),
        ({"norm": "layer", "layers": 1}, "head reads what a layer normalisation gives"),
        ({"residual": True}, "head reads the sum of layers.0 and layers.1"),
        ({"residual": True, "layers": 3}, "layers.2 reads the sum"),
    ],
)
def test_what_cannot_be_quantised_says_which_layer_and_why(options: dict[str, object], reason: str) -> None:
    with pytest.raises(Unbounded, match=f"this model has no int8: {reason}"):
        build(tiny_model(hidden=8, **options), "cell", "1", ["fp32", "int8"])


def test_the_loop_in_torch_gives_the_reference_text(tiny: Trained) -> None:
    graph = DecodeGraph(StepGraph(tiny.model), len(tiny.vocabulary))
    prompt, chars = "Hello", 40
    ids = tiny.vocabulary.encode(prompt)
    steps = len(ids) + chars
    forced = torch.full((steps, 2), -1)
    forced[: len(ids)] = torch.from_numpy(ids)[:, None]
    uniform = torch.from_numpy(uniforms([3, 4], 1, steps))
    start = torch.from_numpy(tiny.vocabulary.encode("\n")).expand(2)
    with torch.no_grad():
        tokens, *_ = graph(start.clone(), forced, uniform, torch.tensor([0.7, 0.0]), *tiny.model.initial_state(2))
    for column, (seed, temperature) in enumerate([(3, 0.7), (4, 0.0)]):
        text = tiny.vocabulary.decode(tokens[len(ids) :, column].numpy())
        assert text == generate(tiny.model, tiny.vocabulary, "\n", prompt, chars, temperature=temperature, seed=seed)
