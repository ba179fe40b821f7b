"""From logits to the next token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jetson_runtime.errors import InputError

__all__ = ["Sampler", "sampler"]

Sampler = Callable[[NDArray[np.float32]], int]


def sampler(temperature: float, top_p: float, seed: int | None) -> Sampler:
    """Greedy at temperature 0; otherwise from the smallest set of tokens whose probabilities reach `top_p`.

    Raises:
        InputError: a temperature below 0, or a top_p outside (0, 1].
    """
    if not 0 <= temperature < float("inf"):
        raise InputError("the temperature can't be used", found=temperature, expected="0 (greedy) or more")
    if not 0 < top_p <= 1:
        raise InputError("top_p can't be used", found=top_p, expected="more than 0 and at most 1")
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = np.random.default_rng(seed)

    def sample(logits: NDArray[np.float32]) -> int:
        scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
        probability = np.exp(scaled)
        probability /= probability.sum()
        order = np.argsort(-probability, kind="stable")
        reached = np.cumsum(probability[order])
        kept = order[: int(np.searchsorted(reached, top_p)) + 1]
        return int(generator.choice(kept, p=probability[kept] / probability[kept].sum()))

    return sample
