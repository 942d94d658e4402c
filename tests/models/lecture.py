"""The lecture's recurrent network in NumPy, from its equations: forward, backward through time, clipping, Adagrad.

    a_t = W h_{t-1} + U x_t + b      h_t = tanh(a_t)      o_t = V h_t + c      p_t = softmax(o_t)
    L = - sum over t of log p_t[y_t]

    dL/do_t = p_t - onehot(y_t)
    dL/dV = sum of dL/do_t h_t^T                 dL/dc = sum of dL/do_t
    dL/dh_t = V^T dL/do_t + W^T dL/da_{t+1}      dL/da_t = (1 - h_t^2) * dL/dh_t
    dL/dW = sum of dL/da_t h_{t-1}^T             dL/dU = sum of dL/da_t x_t^T          dL/db = sum of dL/da_t

Each gradient is clipped to [-5, 5] element by element; then m += g^2 and w -= lr g / sqrt(m + 1e-8).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = dict[str, Floats]
Ids = NDArray[np.integer]


class Program:
    """What the lecture's program has in memory.

    Args:
        weights: U [H, V], W [H, H], b [H], V [V, H], c [V].
        text: numbers of the characters, [N].
        steps: T.
    """

    def __init__(self, weights: Weights, text: Ids, steps: int, learning_rate: float) -> None:
        self.weights, self.text, self.steps, self.learning_rate = weights, text, steps, learning_rate
        self.memory = {name: np.zeros_like(matrix) for name, matrix in weights.items()}
        self.place, self.h = 0, np.zeros(len(weights["b"]))

    def update(self) -> float:
        """Learns from the next window, or the first where none is left. Returns its summed loss before that."""
        if self.place + self.steps > len(self.text) - 1:
            self.place, self.h = 0, np.zeros_like(self.h)
        window = self.text[self.place : self.place + self.steps + 1]
        loss, gradients, self.h = _window(self.weights, window[:-1], window[1:], self.h)
        for name, gradient in gradients.items():
            clipped = np.clip(gradient, -5, 5)
            self.memory[name] = self.memory[name] + clipped * clipped
            change = self.learning_rate * clipped / np.sqrt(self.memory[name] + 1e-8)
            self.weights[name] = self.weights[name] - change
        self.place += self.steps
        return loss


def _window(weights: Weights, inputs: Ids, targets: Ids, before: Floats) -> tuple[float, Weights, Floats]:
    """The loss, its gradients, and the state after."""
    hs, ps, loss = [before], [], 0.0
    for x, y in zip(inputs, targets, strict=True):
        h = np.tanh(weights["W"] @ hs[-1] + weights["U"][:, x] + weights["b"])
        o = weights["V"] @ h + weights["c"]
        p = np.exp(o - o.max())
        p /= p.sum()
        loss -= np.log(p[y])
        hs.append(h)
        ps.append(p)
    gradients = {name: np.zeros_like(matrix) for name, matrix in weights.items()}
    from_later = np.zeros_like(before)
    for t in reversed(range(len(inputs))):
        do = ps[t].copy()
        do[targets[t]] -= 1
        gradients["V"] += np.outer(do, hs[t + 1])
        gradients["c"] += do
        da = (1 - hs[t + 1] ** 2) * (weights["V"].T @ do + from_later)
        gradients["W"] += np.outer(da, hs[t])
        gradients["U"][:, inputs[t]] += da
        gradients["b"] += da
        from_later = weights["W"].T @ da
    return float(loss), gradients, hs[-1]
