"""How logits become a character: what a user who sets a limit relies on."""

import numpy as np
import pytest
import torch
from torch import Tensor

from export.graph.sampling import Sampler, prepare_draws, prepare_limits
from export.verification.expected_outcome import Choice, probabilities


def sample(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    sampler = Sampler(logits.shape[1])
    divisor, numbers = prepare_draws(temperature, uniform.unsqueeze(0))
    return sampler.draw(sampler.weights(logits, divisor), numbers[0])


def limited(
    logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Weights [V] after the limits: logits [V]."""
    sampler = Sampler(len(logits))
    divisor, _ = prepare_draws(torch.tensor([temperature]), torch.zeros(1, 1))
    limits = prepare_limits(
        torch.tensor([top_k or len(logits)]), torch.tensor([top_p]), torch.tensor([min_p]), len(logits)
    )
    return sampler.apply_limits(sampler.weights(logits.unsqueeze(0), divisor), *limits)[0]


def kept(probability: list[float], **limits: float) -> list[int]:
    return torch.nonzero(limited(torch.tensor(probability).log(), **limits)).flatten().tolist()  # type: ignore[arg-type]


def test_an_impossible_character_is_never_taken() -> None:
    """Characters of probability 0 at both ends, and random numbers at the ends of their range."""
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf, 2.0, -torch.inf, -torch.inf]]).expand(4, -1)
    uniform = torch.tensor([0.0, 1e-9, 1 - 2**-24, 0.5])
    outcomes = sample(logits, torch.ones(4), uniform).tolist()
    assert outcomes[:3] == [1, 1, 4]
    assert outcomes[3] in (2, 4)


def test_greedy_takes_the_first_of_equals_and_the_larger_of_neighbours() -> None:
    close = float(np.nextafter(np.float32(3), np.float32(4)))
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [3.0, close, 3.0, 1.0], [-1e4, -2e4, -1e4, -3e4]])
    assert sample(logits, torch.zeros(3), torch.full((3,), 0.99)).tolist() == [1, 1, 0]


def test_greedy_has_no_random_part_at_any_limit() -> None:
    weights = limited(torch.tensor([0.0, 3.0, 3.0, 1.0]), temperature=0.0, top_k=3, top_p=0.9, min_p=0.1)
    assert weights.tolist() == [0, 1, 1, 0]


def test_a_tiny_temperature_neither_overflows_nor_leaves_the_vocabulary() -> None:
    logits = torch.tensor([[5.0, -80.0, 4.9]])
    for temperature in (1e-45, 1e-30, 1e-6):
        assert sample(logits, torch.tensor([temperature]), torch.tensor([0.999])).tolist() == [0]


@pytest.mark.parametrize("vocab", [20, 600])
def test_frequencies_follow_the_probabilities(vocab: int) -> None:
    """Both ways to add up: the triangle's and CumSum's."""
    draws = 200_000
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(1))
    parts = (sample(logits.expand(len(u), -1), torch.full((len(u),), 0.7), u) for u in uniform.split(10_000))
    counts = torch.bincount(torch.cat(list(parts)), minlength=vocab).double()
    expected = torch.softmax(logits[0].double() / 0.7, 0) * draws
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < {20: 43.8, 600: 711.0}[vocab]  # 0.999 quantiles at 19 and 599 degrees of freedom


def test_top_k_keeps_ties_at_its_edge() -> None:
    assert kept([0.4, 0.2, 0.2, 0.2], top_k=2) == [0, 1, 2, 3]
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=2) == [1, 3]
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=1) == [1]


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    assert kept([0.125, 0.5, 0.125, 0.25], top_p=0.5) == [1]
    assert kept([0.125, 0.5, 0.125, 0.25], top_p=0.51) == [1, 3]
    assert kept([0.125, 0.5, 0.125, 0.25], top_p=0.76) == [0, 1, 2, 3]  # the last two are equal


def test_top_p_counts_what_top_k_left() -> None:
    assert kept([0.4, 0.3, 0.2, 0.1], top_k=2, top_p=0.57) == [0]  # 0.4 of 0.7
    assert kept([0.4, 0.3, 0.2, 0.1], top_k=2, top_p=0.58) == [0, 1]


def test_min_p_is_relative_to_the_most_probable() -> None:
    assert kept([0.5, 0.24, 0.01, 0.25], min_p=0.5) == [0, 3]
    assert kept([0.5, 0.24, 0.01, 0.25], min_p=1.0) == [0]


def test_no_limit_loses_no_character_however_rare() -> None:
    logits = torch.cat([torch.tensor([0.0]), torch.full((50,), -30.0)])
    assert int((limited(logits) > 0).sum()) == 51


def test_limits_agree_with_the_reference_in_float64() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        logits = rng.normal(size=40) * rng.uniform(0.1, 4)
        temperature = float(rng.choice([0.3, 1, 1.5]))
        limits = {
            "top_k": int(rng.integers(1, 41)),
            "top_p": float(rng.uniform(0.05, 1)),
            "min_p": float(rng.uniform(0, 0.3)),
        }
        ours = limited(torch.tensor(logits, dtype=torch.float32), temperature=temperature, **limits)  # type: ignore[arg-type]
        expected = probabilities(logits, Choice(-1, 0.0, temperature, **limits))  # type: ignore[arg-type]
        assert ((ours > 0).numpy() == (expected > 0)).all(), limits
        np.testing.assert_allclose((ours / ours.sum()).numpy(), expected / expected.sum(), rtol=1e-4)
