"""A window of GRU steps on a processor: forward and backward pass written out.

torch's own GRU multiplies by unpacked weights in each step, and adds up the gradient of the recurrent weights step by
step. Here the weights are packed once a window, and each gradient of weights is one product of the whole window. torch
multiplies float32 by MKL, which on many processors leaves half of their arithmetic unused (docs/decisions.md); oneDNN,
which it has too, does not.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from bundle.shape import NORM_EPSILON

__all__ = ["gru_window", "pack_product"]

# [rows, I] -> [rows, O]
Product = Callable[[Tensor], Tensor]
_GATES = 3


def gru_window(x: Tensor, state: Tensor, weights: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Run T steps: x [T, B, I] and h [B, H] -> all h [T, B, H] and the last one, [B, H].

    Under autocast the products are in bfloat16; gates and state keep the precision of the weights.

    Args:
        weights: weight_ih [3 x H, I], weight_hh [3 x H, H], bias_ih and bias_hh [3 x H], gates in the order r z n;
            and None, or the gain [3 x H] of the normalised W h' of each gate.
    """
    assert weights[0] is not None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weights[0].dtype
    with torch.autocast("cpu", enabled=False):
        outputs: Tensor = _GruWindow.apply(x, state.to(weights[0].dtype), *weights, kind, torch.is_grad_enabled())
    return outputs, outputs[-1]


class _GruWindow(Function):
    """h = n + z (h' - n), n = tanh(x_n + r h_n), as `models.network.unrolled` has it.

    With a gain W h' is normalised for each gate: what is kept of that is the normalised product and its factor.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        state: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        gain: Tensor | None,
        kind: torch.dtype,
        keep: bool,
    ) -> Tensor:
        (steps, batch), hidden = x.shape[:2], state.shape[1]
        kept = steps if keep else 1
        of_x = pack_product(weight_ih.to(kind), steps * batch)(x.flatten(0, 1).to(kind)).view(steps, batch, -1)
        recurrent = pack_product(weight_hh.to(kind), batch)
        bias_rz, bias_n, bias_h_n = (bias_ih + bias_hh)[: 2 * hidden], bias_ih[2 * hidden :], bias_hh[2 * hidden :]
        gates = state.new_empty(kept, batch, 2 * hidden)
        candidates, of_h = (state.new_empty(kept, batch, hidden) for _ in range(2))
        read = torch.empty(kept, batch, hidden, dtype=kind)
        outputs = state.new_empty(steps, batch, hidden)
        normalised = state.new_empty(0 if gain is None else kept, batch, _GATES * hidden)
        factors = state.new_empty(len(normalised), batch, _GATES, 1)
        h = state
        for t in range(steps):
            at = t if keep else 0
            product = recurrent(read[at].copy_(h))
            of_gates = of_x[t, :, : 2 * hidden]
            if gain is None:
                torch.add(product[:, : 2 * hidden], of_gates, out=gates[at])
                torch.add(product[:, 2 * hidden :], bias_h_n, out=of_h[at])
            else:
                product = _normalise(product, normalised[at], factors[at])
                torch.addcmul(of_gates, product[:, : 2 * hidden], gain[: 2 * hidden], out=gates[at])
                torch.addcmul(bias_h_n, product[:, 2 * hidden :], gain[2 * hidden :], out=of_h[at])
            r, z = gates[at].add_(bias_rz).sigmoid_().split(hidden, dim=1)
            torch.addcmul(bias_n, r, of_h[at], out=candidates[at])
            n = candidates[at].add_(of_x[t, :, 2 * hidden :]).tanh_()
            h = torch.lerp(n, h, z, out=outputs[t])
        if keep:
            given = (x, state, weight_ih, weight_hh, gain)
            made = (gates, candidates, of_h, outputs, read, normalised, factors)
            ctx.save_for_backward(*given, *made)  # type: ignore[arg-type]  # a tensor that may be None, it takes
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, state, weight_ih, weight_hh, gain, *kept_tensors = ctx.saved_tensors  # type: ignore[attr-defined]
        gates, candidates, of_h, outputs, read, normalised, factors = kept_tensors
        (steps, batch, hidden), kind = outputs.shape, read.dtype
        back = pack_product(weight_hh.t().to(kind), batch)
        # What flows into W h', and into U x + b: without a gain only n differs, by the factor r.
        into_h = torch.empty(steps, batch, _GATES * hidden, dtype=kind)
        into_x = torch.empty(steps, batch, hidden, dtype=kind) if gain is None else torch.empty_like(into_h)
        gradient, n_gradient = state.new_empty(batch, _GATES * hidden), state.new_empty(batch, hidden)
        r_gradient, z_gradient, h_n_gradient = gradient.split(hidden, dim=1)
        bias_gradient, bias_n_gradient = torch.zeros_like(gradient), torch.zeros_like(n_gradient)
        gain_gradient = torch.zeros_like(gradient)
        dh = torch.zeros_like(state)
        for t in reversed(range(steps)):
            (r, z), n, before = gates[t].split(hidden, dim=1), candidates[t], outputs[t - 1] if t else state
            dh += grad[t]
            kept = dh * z
            torch.sub(dh, kept, out=n_gradient)
            torch.sub(before, n, out=z_gradient).mul_(n_gradient).mul_(z)
            n_gradient.addcmul_(n_gradient * n, n, value=-1)
            torch.mul(n_gradient, r, out=h_n_gradient)
            torch.mul(h_n_gradient, of_h[t], out=r_gradient)
            r_gradient.addcmul_(r_gradient, r, value=-1)
            bias_gradient += gradient
            bias_n_gradient += n_gradient
            into_x[t, :, -hidden:] = n_gradient
            if gain is None:
                into_h[t] = gradient
            else:
                into_x[t, :, : 2 * hidden] = gradient[:, : 2 * hidden]
                gain_gradient.addcmul_(gradient, normalised[t])
                into_h[t] = _normalise_back(gradient * gain, normalised[t], factors[t]).flatten(1)
            dh = kept.add_(back(into_h[t]))
        columns = _columns(into_h)
        weight_hh_gradient = sum_of_outer_products(columns, read.flatten(0, 1))
        if gain is None:
            columns[2 * hidden :] = into_x.flatten(0, 1).t()
            into_h[:, :, 2 * hidden :] = into_x
            into_x = into_h
        else:
            columns = _columns(into_x)
        weight_ih_gradient = sum_of_outer_products(columns, x.flatten(0, 1).to(kind))
        x_gradient = pack_product(weight_ih.t().to(kind), steps * batch)(into_x.flatten(0, 1)).view_as(x)
        bias_hh_gradient = bias_gradient.sum(0)
        bias_ih_gradient = torch.cat([bias_hh_gradient[: 2 * hidden], bias_n_gradient.sum(0)])
        return (
            x_gradient.to(x.dtype),
            dh,
            weight_ih_gradient.to(weight_ih.dtype),
            weight_hh_gradient.to(weight_hh.dtype),
            bias_ih_gradient,
            bias_hh_gradient,
            None if gain is None else gain_gradient.sum(0),
            None,
            None,
        )


def _normalise(product: Tensor, normalised: Tensor, factors: Tensor) -> Tensor:
    """Normalise each gate's part of a product [B, 3 x H]. Writes the result, and its factors [B, 3, 1]."""
    gates = product.to(normalised.dtype).unflatten(1, (_GATES, -1))
    result, _, factor = torch.native_layer_norm(gates, gates.shape[2:], None, None, NORM_EPSILON)
    factors.copy_(factor)
    return normalised.copy_(result.flatten(1))


def _normalise_back(gradient: Tensor, normalised: Tensor, factors: Tensor) -> Tensor:
    """Return the gradient of the product, [B, 3, H], given that of the normalised one, both [B, 3 x H]."""
    gradient, normalised = (tensor.unflatten(1, (_GATES, -1)) for tensor in (gradient, normalised))
    # As if what is normalised had been so before: mean 0 and factor 1.
    ones = torch.ones_like(factors)
    wanted, none = (True, False, False), torch.zeros_like(factors)
    back = torch.ops.aten.native_layer_norm_backward
    found: Tensor = back(gradient, normalised, normalised.shape[2:], none, ones, None, None, wanted)[0]
    return found.mul_(factors)


def _columns(window: Tensor) -> Tensor:
    """Return the rows of all steps as columns, [T, B, N] -> [N, T x B], laid out as `sum_of_outer_products` wants."""
    columns = window.flatten(0, 1).t()
    return columns.contiguous() if _copies_columns(columns.dtype) else columns


def pack_product(weights: Tensor, rows: int) -> Product:
    """Return a function that multiplies x [rows, I] by weights [O, I], packed for it once: x W^T, [rows, O]."""
    return _pack(weights, rows) if _has_packed(weights.dtype) else lambda x: x @ weights.t()


def _pack(weights: Tensor, rows: int) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weights.contiguous(), rows)

    def multiply(x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, None, "none", [], "")
        return product

    return multiply


@cache
def _has_packed(kind: torch.dtype) -> bool:
    """Tell whether torch and this processor have packed products of this number type."""
    if kind == torch.float64:
        return False
    try:
        ones = torch.ones(8, 8, dtype=kind)
        return bool((_pack(ones, 8)(ones) == 8).all())
    except (AttributeError, RuntimeError):
        return False


def sum_of_outer_products(columns: Tensor, rows: Tensor) -> Tensor:
    """Return the sum over N of column x row: columns [O, N] of `_columns`, rows [N, I] -> [O, I]."""
    if _copies_columns(columns.dtype):
        return pack_product(rows.t(), len(columns))(columns)
    if columns.dtype == torch.bfloat16:  # of which torch's own product is oneDNN's
        return (rows.t() @ columns.t()).t()
    return columns @ rows


@cache
def _copies_columns(kind: torch.dtype) -> bool:
    """Tell whether oneDNN's product, with both factors transposed, is faster than torch's, which needs no copies.

    With AVX-512 it is twice as fast, as MKL has AVX2 for processors of AMD; without, both are as fast.
    """
    return kind == torch.float32 and _has_packed(kind) and "AVX512" in torch.backends.cpu.get_cpu_capability()
