"""The character language model: characters in, logits of the next character out, state carried by the caller."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.network.config import ModelConfig
from models.network.initialise import initialise
from models.network.layers import OneHot, RecurrentLayer, dropout, norm
from models.network.unrolled import LayerState, unroll

__all__ = ["CharLM", "LayerTrace", "ModelConfig", "State", "Unrolled"]

# One tensor [B, H] per layer and kind, in the order of `CharLM.state_names`.
State = tuple[Tensor, ...]
# Runs a layer: the layer, x [T, B, I], its state -> what it hands up [T, B, O], its state after.
Runner = Callable[[RecurrentLayer, Tensor, LayerState], tuple[Tensor, LayerState]]


@dataclass(frozen=True)
class LayerTrace:
    """The record of a layer's T steps, one entry a step; outputs and states belong to the graph of the logits.

    Attributes:
        sums: before the nonlinearities, [B, gates x H]; those of an LSTM and an RNN belong to the graph, too.
        outputs: handed up, [B, O].
        state: after the step, (h,) or (h, c), each [B, H].
    """

    sums: list[Tensor]
    outputs: list[Tensor]
    state: list[LayerState]


@dataclass(frozen=True)
class Unrolled:
    """Logits [T, B, V], and the trace of each layer."""

    logits: Tensor
    layers: tuple[LayerTrace, ...]


class CharLM(nn.Module):
    """Embedding -> recurrent layers -> linear head.

    What is read above layer l is a stream s: s = h of layer l, or with residual connections s + h. Layer l + 1 reads
    dropout(norm(s)), the head reads dropout_output(norm(s)).

    Its weights: `embedding.weight` [V, E] (none with one-hot input), `layers.N.*` as `RecurrentLayer` has them,
    `norms.N.*`, `head.weight` [V, O], `head.bias` [V].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = OneHot(config.vocab) if config.input == "onehot" else nn.Embedding(config.vocab, config.inputs)
        sizes = [config.inputs, *[config.output] * (config.layers - 1)]
        self.layers = cast(Sequence[RecurrentLayer], nn.ModuleList(RecurrentLayer(config, size) for size in sizes))
        self.norms = nn.ModuleList(norm(config) for _ in sizes)
        self.head = nn.Linear(config.output, config.vocab)
        self.dropout_input, self.dropout, self.dropout_output = (
            dropout(rate, config.locked_dropout)
            for rate in (config.dropout_input, config.dropout, config.dropout_output)
        )
        initialise(self, "torch")

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the hidden states: h0, h1, ...; h0, c0, h1, c1, ... of an LSTM."""
        return self.config.shape.state_names

    def initial_state(self, batch: int) -> State:
        """Return the zeros with which every text begins: one [batch, H] per name of `state_names`."""
        weight = self.head.weight
        return tuple(weight.new_zeros(batch, self.config.hidden) for _ in self.state_names)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Run T steps: ids [T, B] int64 -> logits [T, B, V] and the state after the last step."""
        return self._run(ids, state, self._run_layer)

    def unroll(self, ids: Tensor, state: State) -> Unrolled:
        """Run T steps one by one, as in eval mode, and keep a trace of them: ids [T, B], T from 1."""
        traces: list[LayerTrace] = []

        def run_and_trace(layer: RecurrentLayer, x: Tensor, own: LayerState) -> tuple[Tensor, LayerState]:
            sums, outputs, states = map(list, zip(*unroll(layer, x, own), strict=True))
            traces.append(LayerTrace(sums, outputs, states))
            return torch.stack(outputs), states[-1]

        with _eval_mode(self):
            logits, _ = self._run(ids, state, run_and_trace)
        return Unrolled(logits, tuple(traces))

    def _run_layer(self, layer: RecurrentLayer, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        if not (self.training and self.config.weight_drop):
            return layer(x, state)
        # DropConnect of the recurrent weights, one mask a window (Merity et al., 2018).
        kept = nn.functional.dropout(layer.weight_hh, self.config.weight_drop)
        return cast(tuple[Tensor, LayerState], functional_call(layer, {"weight_hh": kept}, (x, state)))

    def _run(self, ids: Tensor, state: State, run_layer: Runner) -> tuple[Tensor, State]:
        x = self.dropout_input(self.embedding(ids))
        after: list[Tensor] = []
        stream: Tensor | None = None
        kinds, last = len(state) // self.config.layers, self.config.layers - 1
        for number, (layer, normalise) in enumerate(zip(self.layers, self.norms, strict=True)):
            h, own = run_layer(layer, x, state[number * kinds : (number + 1) * kinds])
            after += own
            stream = h if stream is None or not self.config.residual else stream + h
            x = (self.dropout if number < last else self.dropout_output)(normalise(stream))
        return self.head(x), tuple(after)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
