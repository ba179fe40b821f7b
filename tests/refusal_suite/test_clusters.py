"""Clusters of prompts that ask the same: what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_suite.clusters import IMAGINED, design_effect, thinned

VALUES = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60)


def effect(clusters: list[list[int]]) -> float:
    sizes, sums = [len(each) for each in clusters], [sum(each) for each in clusters]
    squares = [sum(value * value for value in each) for each in clusters]
    return float(design_effect(sizes, sums, squares))


@given(VALUES)
def test_single_prompts_are_independent(values: list[int]) -> None:
    assert effect([[value] for value in values]) == pytest.approx(1, abs=1e-12)


def test_without_any_difference_a_cluster_is_one_prompt() -> None:
    assert effect([[0, 0, 0, 0]] * 30) == 4


def test_clusters_that_fall_together_are_one_prompt_each() -> None:
    assert effect([[1] * 5] * 10 + [[0] * 5] * 50) == pytest.approx(5)


def test_the_variance_is_that_of_cluster_sums() -> None:
    chance = np.random.default_rng(1)
    clusters = [list(map(int, chance.integers(-1, 2, size))) for size in chance.integers(1, 6, 400)]
    n = sum(map(len, clusters))
    flat = np.concatenate(clusters)
    mean = flat.mean()
    # Obuchowski's variance of the mean, and that of independent prompts.
    together = sum((sum(each) - mean * len(each)) ** 2 for each in clusters) / n**2
    alone = ((flat - mean) ** 2).sum() / n**2
    assert effect(clusters) == pytest.approx(max(1, together / alone), abs=0.02)


@pytest.mark.parametrize("alike", [0.2, 0.5])
def test_the_effect_is_the_textbook_s_for_a_known_correlation(alike: float) -> None:
    chance = np.random.default_rng(2)
    rates = chance.beta(0.3 * (1 - alike) / alike, 0.7 * (1 - alike) / alike, 4000)
    hits = [list(map(int, chance.random(5) < rate)) for rate in rates]
    assert effect(hits) == pytest.approx(1 + 4 * alike, rel=0.06)


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    chance = np.random.default_rng(3)
    sums = chance.integers(0, 3, (7, 20))
    sizes = np.broadcast_to(4, sums.shape)
    assert list(design_effect(sizes, sums, sums)) == [float(design_effect(sizes[0], row, row)) for row in sums]
    assert IMAGINED > 0


def test_thinning_rounds_against_admission() -> None:
    assert tuple(map(int, thinned(3, 3, 100, 1.0))) == (3, 3, 100)
    assert tuple(map(int, thinned(3, 3, 100, 1.9))) == (2, 1, 52)
    assert tuple(map(int, thinned(0, 5, 5, 5.0))) == (0, 1, 1)
