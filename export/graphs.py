"""The graphs of a bundle, written in torch: one step, and loops of K steps for B rows."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from export.cells import Dense, FirstLayer, FurtherLayer, LayerWeights, update
from export.int8 import Int8Dense, quantize
from export.sampling import Sampler, limit, prepare
from models.model import CharLM

__all__ = ["DecodeGraph", "FullGraph", "StepGraph"]


class StepGraph(nn.Module):
    """step.onnx: token [B] and the state -> logits [B, V] and the state one step later."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        config = model.config
        self.cell, self.activation = config.cell, config.activation
        self.kinds = len(model.state_names) // config.layers  # tensors of a layer's state
        self.int8 = False
        first, *further = (_layer_weights(model, layer) for layer in range(config.layers))
        layers = [FirstLayer(first, model.embedding.weight), *map(FurtherLayer, further)]
        self.layers = nn.ModuleList(layers)
        self.head = Dense(model.head.weight.T, model.head.bias)

    def quantized(self) -> "StepGraph":
        """The same step with every matmul in 8 bits; tables, sums and cell states stay float32."""
        step = copy.deepcopy(self)
        step.int8 = True
        for module in list(step.modules()):
            for name, child in module.named_children():
                if isinstance(child, Dense):
                    setattr(module, name, Int8Dense(child.weight, child.bias))
        return step

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, carry = self.advance(token, self.enter(state))
        return (logits, *self.leave(carry))

    def enter(self, state: Sequence[Tensor]) -> list[Tensor]:
        """What goes from step to step: the state, and in 8 bits also the matmuls' input made of each hidden state."""
        return [*state, *(map(quantize, state[:: self.kinds]) if self.int8 else ())]

    def leave(self, carry: Sequence[Tensor]) -> list[Tensor]:
        return list(carry[: self.kinds * len(self.layers)])

    def advance(self, token: Tensor, carry: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One step: token [B] -> logits [B, V], and what is carried on."""
        state = self.leave(carry)
        hidden = carry[len(state) :] if self.int8 else state[:: self.kinds]
        x, after, inputs = token, [], []
        for number, layer in enumerate(self.layers):
            own = state[number * self.kinds : (number + 1) * self.kinds]
            after += update(self.cell, self.activation, layer(x, hidden[number]), own)
            x = after[-self.kinds]
            if self.int8:
                x = quantize(x)
                inputs.append(x)
        return self.head(x), after + inputs


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

        def body(carry: list[Tensor], step: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
            token, *before = carry
            forced, uniform = step
            logits, after = self.step.advance(token, before)
            outcome = self.sampler.draw(self.sampler.weights(logits, divisor), uniform)
            outcome = torch.where(forced >= 0, forced, outcome)
            return [outcome, *after], [outcome.clone()]

        (token, *after), (tokens,) = scan(body, [token, *self.step.enter(state)], [forced, uniform])
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

        def body(carry: list[Tensor], step: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
            token, *before = carry
            forced, uniform = step
            logits, after = self.step.advance(token, before)
            weights = self.sampler.weights(logits + bias, divisor)
            outcome = self.sampler.draw(self.sampler.limited(weights, *limits), uniform)
            outcome = torch.where(forced >= 0, forced, outcome)
            return [outcome, *after], [outcome.clone(), torch.log_softmax(logits, 1)]

        (token, *after), (tokens, logprobs) = scan(body, [token, *self.step.enter(state)], [forced, uniform])
        return (tokens, token, logprobs, *self.step.leave(after))


def _layer_weights(model: CharLM, layer: int) -> LayerWeights:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    parts = (model.recurrent.get_parameter(f"{name}_l{layer}").detach() for name in names)
    return LayerWeights(model.config.cell, *parts)
