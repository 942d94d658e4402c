"""The trained model as every peer runs it: the exported step graph and a draw in numpy, or charstream's decode graph.

Needs numpy and onnxruntime only, so that it runs in any peer's environment.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["CharModel", "Rows", "draw", "graph_file"]

Array = NDArray[Any]


@dataclass
class Rows:
    """The texts of a batch: the last token of each, [B], and the hidden states, each [B, H]."""

    token: Array
    state: list[Array]

    def __len__(self) -> int:
        return len(self.token)

    def joined(self, other: "Rows") -> "Rows":
        states = [np.concatenate(pair) for pair in zip(self.state, other.state, strict=True)]
        return Rows(np.concatenate((self.token, other.token)), states)

    def kept(self, keep: Sequence[bool]) -> "Rows":
        """Return only the rows that are to be kept."""
        mask = np.asarray(keep, bool)
        return Rows(self.token[mask], [array[mask] for array in self.state])


class CharModel:
    """One session of one thread.

    Args:
        graph: `step` for the step graph, with the draw in numpy; a precision (fp32, int8) for charstream's decode
            graph of that precision, which runs all steps and draws in one call.

    Attributes:
        symbols: the characters, by token.
    """

    def __init__(self, bundle: Path, graph: str = "step", seed: int = 0) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
        self.symbols = np.array(list(manifest["symbols"]))
        self._start = manifest["symbols"].index(manifest["start_text"])
        self._hidden = manifest["model"]["hidden"]
        self._in_graph = graph != "step"
        self._session = _session(bundle / graph_file(graph), self._in_graph)
        inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._states = [name for name in inputs if name not in {"token", "forced", "uniform", "temperature"}]
        self._outputs = [f"{name}_next" for name in self._states]
        self._random = np.random.default_rng(seed)

    def begin(self, rows: int) -> Rows:
        """Return the rows with which texts begin: the start character and a state of zeros."""
        states = [np.zeros((rows, self._hidden), np.float32) for _ in self._states]
        return Rows(np.full(rows, self._start, np.int64), states)

    def run(self, rows: Rows, steps: int, temperature: Array) -> Array:
        """Generate `steps` characters for every row, move the rows on, and return the tokens [K, B].

        Args:
            temperature: of each row, [B] float32; 0 takes the most probable character.
        """
        uniform = self._random.random((steps, len(rows)), np.float32)
        if self._in_graph:
            return self._run_loop(rows, uniform, temperature)
        return np.stack([self._run_step(rows, row, temperature) for row in uniform])

    def texts(self, tokens: Array) -> list[str]:
        """Return the text of each row: tokens [K, B]."""
        return ["".join(row) for row in self.symbols[tokens.T]]

    def nats(self, texts: Sequence[str]) -> float:
        """Return the mean negative log-probability of the texts' characters; all texts have one length."""
        place = {symbol: token for token, symbol in enumerate(self.symbols)}
        tokens = np.array([[place[symbol] for symbol in text] for text in texts], np.int64)
        rows, total = self.begin(len(texts)), 0.0
        for column in tokens.T:
            logits = self._logits(rows).astype(np.float64)
            logits -= logits.max(1, keepdims=True)
            total += float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(rows)), column]).sum())
            rows.token = column
        return total / tokens.size

    def _run_step(self, rows: Rows, uniform: Array, temperature: Array) -> Array:
        rows.token = draw(self._logits(rows), uniform, temperature)
        return rows.token

    def _logits(self, rows: Rows) -> Array:
        given = {"token": rows.token, **dict(zip(self._states, rows.state, strict=True))}
        logits, *rows.state = self._session.run(["logits", *self._outputs], given)
        return np.asarray(logits)

    def _run_loop(self, rows: Rows, uniform: Array, temperature: Array) -> Array:
        given = {"token": rows.token, "forced": np.full(uniform.shape, -1, np.int64), "uniform": uniform}
        given |= {"temperature": temperature, **dict(zip(self._states, rows.state, strict=True))}
        tokens, rows.token, *rows.state = self._session.run(["tokens", "token_next", *self._outputs], given)
        return np.asarray(tokens)


def graph_file(graph: str) -> str:
    """Return the name of a graph's file in a bundle."""
    return "step.onnx" if graph == "step" else f"decode.{graph}.onnx"


def draw(logits: Array, uniform: Array, temperature: Array) -> Array:
    """Draw a token for each row from softmax(logits / temperature): logits [B, V], uniform [B], temperature [B] -> [B].

    Where the temperature is 0 it is the most probable one.
    """
    scaled = (logits - logits.max(1, keepdims=True)) / np.maximum(temperature, 1e-6)[:, None]
    cumulated = np.exp(scaled).cumsum(1)
    drawn = (cumulated <= (uniform * cumulated[:, -1])[:, None]).sum(1)
    return np.where(temperature > 0, np.minimum(drawn, logits.shape[1] - 1), logits.argmax(1)).astype(np.int64)


def _session(file: Path, in_graph: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not in_graph:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    # As charstream runs it (server/runtime/host_runner.py).
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.x64quantprecision", "1")
    kept = ["ConstantFolding"]
    return onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=kept
    )
