from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetson_runtime.errors import InputError
from jetson_runtime.sampling import sampler

logits = st.lists(st.floats(-20, 20), min_size=2, max_size=40).map(lambda values: np.array(values, np.float32))


@given(logits)
def test_greedy_takes_the_largest(values: np.ndarray) -> None:
    assert values[sampler(0, 1, None)(values)] == values.max()


@given(logits, st.floats(0.1, 2), st.floats(0.05, 1), st.integers(0, 9))
def test_a_sample_lies_in_the_nucleus(values: np.ndarray, temperature: float, top_p: float, seed: int) -> None:
    chosen = sampler(temperature, top_p, seed)(values)
    probability = np.exp((values.astype(np.float64) - values.max()) / temperature)
    probability /= probability.sum()
    larger = probability[probability > probability[chosen] * (1 + 1e-9)].sum()
    assert larger <= top_p + 1e-9


def test_a_seed_makes_it_repeatable_and_frequencies_follow_the_probabilities() -> None:
    values = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    first, second = ([sampler(1, 1, seed)(values) for seed in range(2000)] for _ in range(2))
    assert first == second
    assert np.allclose(np.bincount(first, minlength=3) / 2000, [0.7, 0.2, 0.1], atol=0.04)


@pytest.mark.parametrize(("temperature", "top_p"), [(-1, 1), (float("nan"), 1), (1, 0), (1, 1.5)])
def test_impossible_settings_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(InputError):
        sampler(temperature, top_p, None)
