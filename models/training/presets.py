"""Configurations by name: a few overrides of `TrainSettings`' defaults, which flags override again."""

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # A small model that learns most in the two minutes of --minutes 2 on two cores.
    "demo": {
        "layers": 1,
        "hidden": 256,
        "embedding": 64,
        "dropout": 0.0,
        "batch": 16,
        "sequence": 64,
        "learning_rate": 1e-2,
    },
    # What learns most of a text of a million characters: one wide GRU, small batches, a high learning rate, beginning
    # anew often, and few readings: more of them, and dropout, made it worse (docs/decisions.md).
    "shakespeare": {
        "cell": "gru",
        "layers": 1,
        "hidden": 768,
        "embedding": 64,
        "dropout": 0.0,
        "batch": 32,
        "sequence": 64,
        "restart_every": 8,
        "learning_rate": 4e-3,
        "characters": 3_300_000,
    },
    # Karpathy's char-rnn (2015): its sizes, its split and its update, clipped as a sum over the window. The learning
    # rate ends where its ends after 50 epochs, 0.97^40 of where it began.
    "char-rnn": {
        "input": "onehot",
        "layers": 2,
        "hidden": 128,
        "dropout": 0.0,
        "batch": 50,
        "sequence": 50,
        "optimizer": "rmsprop",
        "rmsprop_decay": 0.95,
        "learning_rate": 2e-3,
        "schedule": "step",
        "decay": 0.3,
        "decay_steps": 40,
        "warmup": 0,
        "init": "uniform",
        "init_scale": 0.08,
        "loss": "sum",
        "clip_norm": 0.0,
        "clip_value": 5.0,
        "restart_every": 0,
        "split": "0.95,0.05",
    },
    # Karpathy's min-char-rnn (112 lines of NumPy, 2015), the program of the lectures.
    "min-char-rnn": {
        "cell": "rnn",
        "input": "onehot",
        "layers": 1,
        "hidden": 100,
        "dropout": 0.0,
        "batch": 1,
        "sequence": 25,
        "optimizer": "adagrad",
        "learning_rate": 0.1,
        "schedule": "constant",
        "warmup": 0,
        "init": "normal",
        "init_scale": 0.01,
        "loss": "sum",
        "clip_norm": 0.0,
        "clip_value": 5.0,
        "restart_every": 0,
    },
}
