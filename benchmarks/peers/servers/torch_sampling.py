"""Sampling with torch in one process, as the classical sample.py does: a step of the model, softmax, multinomial.

No server and no messages: each line on standard input, JSON with rows, seconds, chars and temperature, is answered by a
line with the characters a second, and texts. The weights are those of a training run's best checkpoint.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class CharLM(nn.Module):
    """Embedding -> LSTM -> linear head, of torch's own modules.

    Args:
        kind: `lstm` for nn.LSTM, as the classical programs have it; `cells` for an nn.LSTMCell a layer, which torch
            runs far faster where a call has one step.
    """

    def __init__(self, header: dict[str, Any], tensors: dict[str, Tensor], kind: str) -> None:
        super().__init__()
        (vocab, inputs), layers = tensors["embedding.weight"].shape, header["model"]["layers"]
        hidden = header["model"]["hidden"]
        self.embedding = nn.Embedding(vocab, inputs)
        self.lstm = nn.LSTM(inputs, hidden, layers) if kind == "lstm" else None
        sizes = [inputs, *[hidden] * (layers - 1)]
        self.cells = nn.ModuleList(nn.LSTMCell(size, hidden) for size in sizes) if kind == "cells" else None
        self.head = nn.Linear(hidden, vocab)
        given = {name: tensors[name] for name in ("embedding.weight", "head.weight", "head.bias")}
        for layer in range(layers):
            own = {name: tensors[f"layers.{layer}.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih")}
            for name, tensor in (own | {"bias_hh": torch.zeros(4 * hidden)}).items():
                given[f"lstm.{name}_l{layer}" if self.lstm else f"cells.{layer}.{name}"] = tensor
        self.load_state_dict(given)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run one step: tokens [B] -> logits [B, V]; the state is None where a text begins."""
        x = self.embedding(tokens)
        if self.lstm:
            outputs, state = self.lstm(x[None], state)
            return self.head(outputs[0]), state
        after = []
        for layer, cell in enumerate(self.cells or ()):
            after.append(cell(x, state[layer] if state else None))
            x = after[-1][0]
        return self.head(x), after


@torch.inference_mode()
def sample(model: CharLM, start: int, rows: int, chars: int, temperature: float) -> Tensor:
    """Return the tokens of `rows` texts, [B, chars]."""
    tokens, state, outcome = torch.full((rows,), start), None, []
    for _ in range(chars):
        logits, state = model(tokens, state)
        if temperature > 0:
            tokens = torch.multinomial(torch.softmax(logits / temperature, 1), 1)[:, 0]
        else:
            tokens = logits.argmax(1)
        outcome.append(tokens)
    return torch.stack(outcome, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--kind", choices=("lstm", "cells"), required=True)
    arguments = parser.parse_args()
    folder, kind = arguments.run, arguments.kind
    header = json.loads((folder / "best.json").read_text("utf-8"))
    symbols, start = header["symbols"], header["symbols"].index(header["start_text"])
    stored = load_file(folder / header["tensors"])
    tensors = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    model = CharLM(header, tensors, kind).eval()
    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        texts: list[str] = []
        begin = time.perf_counter()
        while not texts or time.perf_counter() - begin < asked["seconds"]:
            tokens = sample(model, start, asked["rows"], asked["chars"], asked["temperature"])
            texts += ["".join(symbols[token] for token in row) for row in tokens.tolist()]
        speed = sum(map(len, texts)) / (time.perf_counter() - begin)
        print(json.dumps({"chars_per_second": speed, "texts": texts[:16]}), flush=True)


if __name__ == "__main__":
    main()
