"""The graphs of a bundle, written in torch: one step, and loops of K steps for B rows."""

import copy
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bundle.manifest import Precision
from export.graph.activations import Activation
from export.graph.bounds import require_bounded
from export.graph.cells import Dense, FirstLayer, FurtherLayer, LayerWeights, update
from export.graph.folding import head_weights, layer_weights
from export.graph.fp16 import HalfDense, half
from export.graph.int8 import Int8Dense, quantize
from export.graph.sampling import Sampler, limit, prepare
from export.graph.scan import Step, loop
from models.network.char_lm import CharLM

__all__ = ["DecodeGraph", "FullGraph", "StepGraph"]


class StepGraph(nn.Module):
    """step.onnx: token [B] and the state -> logits [B, V] and the state one step later."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        config = model.config
        self.config = config
        self.reduce: Callable[[Tensor], Tensor] | None = None
        self.kinds = len(config.shape.kinds)
        first, *further = (_layer_weights(model, number) for number in range(config.layers))
        self.layers = nn.ModuleList([FirstLayer(first), *map(FurtherLayer, further)])
        self.phis = cast(
            Sequence[Activation], nn.ModuleList(Activation(config.activation, layer.phi) for layer in model.layers)
        )
        self.norms = nn.ModuleList(map(_norm, model.norms))
        head = head_weights(model)
        self.head = Dense(head.weight.T, head.bias)

    def at(self, precision: Precision) -> "StepGraph":
        """The same step with the matmuls of a precision; tables, sums and cell states stay float32.

        Raises:
            Unbounded: a matmul reads numbers that have no bound.
        """
        require_bounded(self.config, precision)
        if precision == "int8":
            return self._with(quantize, Int8Dense)
        if precision == "fp16-cuda":
            return self._with(half, HalfDense)
        return self

    def _with(self, reduce: Callable[[Tensor], Tensor], dense: type[Int8Dense] | type[HalfDense]) -> "StepGraph":
        """A copy whose matmuls read what `reduce` gives."""
        step = copy.deepcopy(self)
        step.reduce = reduce
        for module in list(step.modules()):
            for name, child in module.named_children():
                if isinstance(child, Dense):
                    setattr(module, name, dense(child.weight, child.bias))
        return step

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, carry = self.advance(token, self.enter(state))
        return (logits, *self.leave(carry))

    def enter(self, state: Sequence[Tensor]) -> list[Tensor]:
        """What goes from step to step: the state, and where it is not an h itself what each layer reads of itself."""
        return [*state, *(map(self._own_input, self.phis, state[:: self.kinds]) if self._apart else ())]

    def leave(self, carry: Sequence[Tensor]) -> list[Tensor]:
        return list(carry[: self.kinds * len(self.layers)])

    def advance(self, token: Tensor, carry: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One step: token [B] -> logits [B, V], and what is carried on."""
        state = self.leave(carry)
        own_inputs = carry[len(state) :] if self._apart else state[:: self.kinds]
        x = token
        after: list[Tensor] = []
        read: list[Tensor] = []
        stream: Tensor | None = None
        for number, (layer, phi, norm) in enumerate(zip(self.layers, self.phis, self.norms, strict=True)):
            own = state[number * self.kinds : (number + 1) * self.kinds]
            after += update(self.config.cell, self.config.form, phi, layer(x, own_inputs[number]), own)
            h = self._output(phi, after[-self.kinds])
            read.append(self._reduced(h))
            stream = h if stream is None or not self.config.residual else stream + h
            x = read[-1] if stream is h and isinstance(norm, nn.Identity) else self._reduced(norm(stream))
        return self.head(x), after + (read if self._apart else [])

    @property
    def _apart(self) -> bool:
        """Whether a layer reads something else than its state's h."""
        return self.reduce is not None or self.config.form == "pre"

    def _output(self, phi: Activation, h: Tensor) -> Tensor:
        """What a layer hands up: of its h [B, H], [B, O]."""
        return phi(h) if self.config.form == "pre" else h

    def _reduced(self, x: Tensor) -> Tensor:
        """What a matmul reads of numbers in float32."""
        return x if self.reduce is None else self.reduce(x)

    def _own_input(self, phi: Activation, h: Tensor) -> Tensor:
        """What a layer reads of its own h [B, H] in the next step, [B, O]."""
        return self._reduced(self._output(phi, h))


class DecodeGraph(nn.Module):
    """decode.onnx: K steps in which each row is, step by step, forced or sampled."""

    def __init__(self, step: StepGraph, vocab: int) -> None:
        super().__init__()
        self.step, self.sampler = step, Sampler(vocab)

    def forward(
        self, token: Tensor, forced: Tensor, uniform: Tensor, temperature: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Runs the loop: token [B], forced and uniform [K, B], temperature [B], each state tensor [B, H].

        Returns:
            tokens [K, B], the last of them [B], and the state.
        """
        divisor, uniform = prepare(temperature, uniform)

        def body(carry: Sequence[Tensor], step: Sequence[Tensor], fixed: Sequence[Tensor]) -> Step:
            token, *before = carry
            forced, uniform = step
            (divisor,) = fixed
            logits, after = self.step.advance(token, before)
            outcome = self.sampler.draw(self.sampler.weights(logits, divisor), uniform)
            outcome = torch.where(forced >= 0, forced, outcome)
            return [outcome, *after], [outcome.clone()]

        (token, *after), (tokens,) = loop(self, body, [token, *self.step.enter(state)], [forced, uniform], [divisor])
        return (tokens, token, *self.step.leave(after))


class FullGraph(nn.Module):
    """full.onnx: the same loop with a bias and limits, and the log-probabilities of all characters."""

    def __init__(self, step: StepGraph, vocab: int) -> None:
        super().__init__()
        self.step, self.sampler, self.vocab = step, Sampler(vocab), vocab

    def forward(
        self,
        token: Tensor,
        forced: Tensor,
        uniform: Tensor,
        temperature: Tensor,
        bias: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """Runs the loop: as `DecodeGraph`, with bias [B, V] and the limits [B].

        Returns:
            tokens [K, B], the last of them [B], logprobs [K, B, V] of the model's own distribution, and the state.
        """
        divisor, uniform = prepare(temperature, uniform)
        limits = limit(top_k, top_p, min_p, self.vocab)

        def body(carry: Sequence[Tensor], step: Sequence[Tensor], fixed: Sequence[Tensor]) -> Step:
            token, *before = carry
            forced, uniform = step
            divisor, bias, *limits = fixed
            logits, after = self.step.advance(token, before)
            weights = self.sampler.weights(logits + bias, divisor)
            outcome = self.sampler.draw(self.sampler.limited(weights, *limits), uniform)
            outcome = torch.where(forced >= 0, forced, outcome)
            return [outcome, *after], [outcome.clone(), torch.log_softmax(logits, 1)]

        fixed = [divisor, bias, *limits]
        (token, *after), (tokens, logprobs) = loop(
            self, body, [token, *self.step.enter(state)], [forced, uniform], fixed
        )
        return (tokens, token, logprobs, *self.step.leave(after))


def _layer_weights(model: CharLM, number: int) -> LayerWeights:
    return LayerWeights(model.config.cell, model.config.gates, *layer_weights(model, number))


def _norm(norm: nn.Module) -> nn.Module:
    """Batch normalisation is part of the weights that follow."""
    return copy.deepcopy(norm).requires_grad_(False) if isinstance(norm, nn.LayerNorm) else nn.Identity()
