"""The graphs of a bundle, written in torch: one step, and loops of K steps for B rows."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bundle.manifest import ON_DEVICE, Precision
from export.graph.activations import Activation
from export.graph.bounds import require_bounded
from export.graph.calibration import ROWS, input_moments
from export.graph.cells import Dense, FirstLayer, FurtherLayer, LayerWeights, update
from export.graph.folding import head_weights, layer_weights
from export.graph.fp16 import HalfDense, half
from export.graph.int8 import Int8Dense, quantize
from export.graph.joined import join
from export.graph.rounding import IntegerWeights, round_weights
from export.graph.sampling import Sampler, prepare_draws, prepare_limits
from export.graph.scan import Step, loop
from models.network.char_lm import CharLM

__all__ = ["DecodeGraph", "FullGraph", "StepGraph"]


class StepGraph(nn.Module):
    """step.onnx: token [B] and the state -> logits [B, V] and the state after one step."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        config = model.config
        self.config = config
        self.to_matmul_input: Callable[[Tensor], Tensor] | None = None
        self.kinds_per_layer = len(config.shape.kinds)
        self.is_for_device = False
        weights = ((*layer_weights(model, number), layer.gain) for number, layer in enumerate(model.layers))
        first, *further = (LayerWeights(config.cell, config.gates, *parts) for parts in weights)
        self.layers = nn.ModuleList([FirstLayer(first), *map(FurtherLayer, further)])
        self.phis = cast(
            Sequence[Activation], nn.ModuleList(Activation(config.activation, layer.phi) for layer in model.layers)
        )
        self.norms = nn.ModuleList(map(_norm, model.norms))
        head = head_weights(model)
        self.head = Dense(head.weight.T, head.bias)

    def in_precision(self, precision: Precision, integers: Mapping[str, IntegerWeights] | None = None) -> "StepGraph":
        """Return this step with the matmuls of a precision; tables, sums and cell states stay float32.

        For a device it has as few operators as possible (export/graph/joined.py).

        Args:
            integers: the weights of int8 by the names of their modules (default: this step's, rounded).

        Raises:
            Unbounded: a matmul would read unbounded numbers.
        """
        require_bounded(self.config, precision)
        if precision == "int8":
            rounded = self.rounded_weights() if integers is None else integers
            return self._with_matmuls(quantize, lambda name, dense: Int8Dense(rounded[name], dense.bias))
        if precision in ON_DEVICE:
            step = copy.deepcopy(self)
            step.layers, step.is_for_device = nn.ModuleList(map(join, self.layers)), True
            if precision == "fp16-cuda":
                return step._with_matmuls(half, lambda name, dense: HalfDense(dense.weight, dense.bias))
            return step
        return self

    def matmuls(self) -> dict[str, Dense]:
        """Return the modules that multiply by weights of float32, by name."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Dense)}

    def rounded_weights(self) -> dict[str, IntegerWeights]:
        """Round the weights to 8 bits for texts that this step writes."""
        state = [torch.zeros(ROWS, self.config.hidden) for _ in self.config.shape.state_names]
        moments = input_moments(self, self.matmuls(), state)
        return {name: round_weights(dense.weight, moments[name]) for name, dense in self.matmuls().items()}

    def _with_matmuls(
        self, to_matmul_input: Callable[[Tensor], Tensor], replace: Callable[[str, Dense], nn.Module]
    ) -> "StepGraph":
        """Return a copy whose matmuls read the results of `to_matmul_input`."""
        step = copy.deepcopy(self)
        step.to_matmul_input = to_matmul_input
        for name, dense in step.matmuls().items():
            step.set_submodule(name, replace(name, dense))
        return step

    def unpack(self) -> None:
        """Convert weights of few bits for torch once, and not at every step: for a step that is run and not exported.

        What it computes has the same bits.
        """
        for module in self.modules():
            if isinstance(module, Int8Dense | HalfDense):
                module.unpack()

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, carry = self.advance(token, self.state_to_carry(state))
        return (logits, *self.carry_to_state(carry))

    def state_to_carry(self, state: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors that steps carry: the state and, with int8, fp16 or form pre, each layer's next input.

        That is what its matmul reads of the layer itself.
        """
        if not self._carries_own_inputs:
            return list(state)
        return [*state, *map(self._own_input, self.phis, state[:: self.kinds_per_layer])]

    def carry_to_state(self, carry: Sequence[Tensor]) -> list[Tensor]:
        """Return the state among the carried tensors."""
        return list(carry[: self.kinds_per_layer * len(self.layers)])

    def advance(self, token: Tensor, carry: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run one step: token [B] -> logits [B, V], and the carried tensors after it."""
        state = self.carry_to_state(carry)
        own_inputs = carry[len(state) :] if self._carries_own_inputs else state[:: self.kinds_per_layer]
        x = token
        after: list[Tensor] = []
        next_inputs: list[Tensor] = []
        residual_sum: Tensor | None = None
        for number, (layer, phi, norm) in enumerate(zip(self.layers, self.phis, self.norms, strict=True)):
            layer_state = state[number * self.kinds_per_layer : (number + 1) * self.kinds_per_layer]
            after += update(self.config.cell, self.config.form, phi, layer(x, own_inputs[number]), layer_state)
            h = self._output(phi, after[-self.kinds_per_layer])
            next_inputs.append(self._matmul_input(h))
            residual_sum = h if residual_sum is None or not self.config.residual else residual_sum + h
            is_same = residual_sum is h and isinstance(norm, nn.Identity)
            x = next_inputs[-1] if is_same else self._matmul_input(norm(residual_sum))
        return self.head(x), after + (next_inputs if self._carries_own_inputs else [])

    @property
    def _carries_own_inputs(self) -> bool:
        """Whether a layer reads something other than its state's h."""
        return self.to_matmul_input is not None or self.config.form == "pre"

    def _output(self, phi: Activation, h: Tensor) -> Tensor:
        """Return a layer's output [B, O], given its h [B, H]."""
        return phi(h) if self.config.form == "pre" else h

    def _matmul_input(self, x: Tensor) -> Tensor:
        """Return float32 values in the form that a matmul reads."""
        return x if self.to_matmul_input is None else self.to_matmul_input(x)

    def _own_input(self, phi: Activation, h: Tensor) -> Tensor:
        """Return what a layer reads of itself in the next step, [B, O], given its h [B, H]."""
        return self._matmul_input(self._output(phi, h))


class DecodeGraph(nn.Module):
    """decode.*.onnx: K steps, in each of which a row is forced or sampled."""

    def __init__(self, step: StepGraph, vocab: int) -> None:
        super().__init__()
        self.step, self.sampler = step, Sampler(vocab, for_device=step.is_for_device)

    def forward(
        self, token: Tensor, forced: Tensor, uniform: Tensor, temperature: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the loop: token [B], forced and uniform [K, B], temperature [B], each state tensor [B, H].

        Returns:
            tokens [K, B], the last of them [B], and the state.
        """
        divisor, uniform = prepare_draws(temperature, uniform)

        def body(carry: Sequence[Tensor], step: Sequence[Tensor], fixed: Sequence[Tensor]) -> Step:
            token, *before = carry
            forced, uniform = step
            (divisor,) = fixed
            logits, after = self.step.advance(token, before)
            outcome = self.sampler.draw(self.sampler.weights(logits, divisor), uniform)
            outcome = torch.where(forced >= 0, forced, outcome)
            return [outcome, *after], [outcome.clone()]

        (token, *after), (tokens,) = loop(
            self, body, [token, *self.step.state_to_carry(state)], [forced, uniform], [divisor]
        )
        return (tokens, token, *self.step.carry_to_state(after))


class FullGraph(nn.Module):
    """full.*.onnx: the same loop with bias, limits and the log-probabilities of all characters."""

    def __init__(self, step: StepGraph, vocab: int) -> None:
        super().__init__()
        self.step, self.vocab = step, vocab
        self.sampler = Sampler(vocab, for_device=step.is_for_device)

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
        """Run the loop as in `DecodeGraph`, with bias [B, V] and the limits [B].

        Returns:
            tokens [K, B], the last of them [B], logprobs [K, B, V] of the model's own distribution, and the state.
        """
        divisor, uniform = prepare_draws(temperature, uniform)
        limits = prepare_limits(top_k, top_p, min_p, self.vocab)

        def body(carry: Sequence[Tensor], step: Sequence[Tensor], fixed: Sequence[Tensor]) -> Step:
            token, *before = carry
            forced, uniform = step
            divisor, bias, *limits = fixed
            logits, after = self.step.advance(token, before)
            weights = self.sampler.weights(logits + bias, divisor)
            outcome = self.sampler.draw(self.sampler.apply_limits(weights, *limits), uniform)
            outcome = torch.where(forced >= 0, forced, outcome)
            return [outcome, *after], [outcome.clone(), torch.log_softmax(logits, 1)]

        fixed = [divisor, bias, *limits]
        (token, *after), (tokens, logprobs) = loop(
            self, body, [token, *self.step.state_to_carry(state)], [forced, uniform], fixed
        )
        return (tokens, token, logprobs, *self.step.carry_to_state(after))


def _norm(norm: nn.Module) -> nn.Module:
    """Copy a layer normalisation; batch normalisation is part of the weights that follow."""
    return copy.deepcopy(norm).requires_grad_(False) if isinstance(norm, nn.LayerNorm) else nn.Identity()
