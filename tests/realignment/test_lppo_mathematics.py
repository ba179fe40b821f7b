"""L-PPO's mathematics against numbers computed by hand, plain definitions and numerical derivatives."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from realignment.lppo.objective import Objective, advantages, objective, token_rewards, whitened  # noqa: E402

NUMBERS = st.floats(-3, 3, allow_nan=False, width=32)


def rows(*values: list[float]) -> Any:
    return torch.tensor(values, dtype=torch.float64)


def test_the_last_token_earns_the_reward_and_each_pays_for_its_divergence() -> None:
    mask = rows([1, 1, 1], [1, 1, 0], [1, 0, 0])
    logprobs = rows([-1.0, -2.0, -3.0], [-0.5, -0.5, 9.0], [-1.0, 9.0, 9.0])
    reference = rows([-1.5, -2.0, -2.0], [-0.5, -1.5, 7.0], [-3.0, 7.0, 7.0])
    result = token_rewards(torch.tensor([2.0, -1.0, 0.5]), logprobs, reference, mask, 0.1)
    expected = rows([-0.05, 0.0, 0.1 + 2.0], [0.0, -0.1 - 1.0, 0.0], [-0.2 + 0.5, 0.0, 0.0])
    assert torch.allclose(result, expected, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=3), st.floats(0, 2))
def test_the_expected_penalty_is_the_divergence(logits: list[tuple[float, float]], weight: float) -> None:
    """Every answer of two tokens over a vocabulary of three, weighted by how likely the policy says it."""
    policy, reference = (
        torch.tensor([pair[side] for pair in logits], dtype=torch.float64).log_softmax(0) for side in (0, 1)
    )
    answers = [(first, second) for first in range(3) for second in range(3)]
    says = torch.stack([policy[list(answer)] for answer in answers])
    said = torch.stack([reference[list(answer)] for answer in answers])
    penalties = token_rewards(torch.zeros(9), says, said, torch.ones(9, 2), weight)
    likely = says.sum(1).exp()
    divergence = sum(math.exp(p) * (p - q) for p, q in zip(policy.tolist(), reference.tolist(), strict=True))
    for token in range(2):
        assert float((likely * penalties[:, token]).sum()) == pytest.approx(-weight * divergence, abs=1e-9)


def test_advantages_of_a_case_by_hand() -> None:
    """gamma 0.9, lambda 0.5: each step back keeps 0.45 of what comes after it.

    First answer, rewards 1 0 2, values 0.5 1 -1:
      delta_3 = 2 - (-1)             =  3
      delta_2 = 0 + 0.9 * (-1) - 1   = -1.9    A_2 = -1.9 + 0.45 * 3      = -0.55
      delta_1 = 1 + 0.9 * 1 - 0.5    =  1.4    A_1 =  1.4 + 0.45 * -0.55  =  1.1525
    Second answer, rewards 0.5 4, values 2 1, then padding with numbers that must not count:
      delta_2 = 4 - 1 = 3            delta_1 = 0.5 + 0.9 * 1 - 2 = -0.6   A_1 = -0.6 + 0.45 * 3 = 0.75
    """
    mask = rows([1, 1, 1], [1, 1, 0])
    result, returns = advantages(
        rows([1, 0, 2], [0.5, 4, 0]), rows([0.5, 1, -1], [2, 1, 77]), mask, gamma=0.9, decay=0.5
    )
    assert torch.allclose(result, rows([1.1525, -0.55, 3.0], [0.75, 3.0, 0.0]))
    assert torch.allclose(returns, rows([1.6525, 0.45, 2.0], [2.75, 4.0, 0.0]))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.floats(0, 1), st.floats(0, 1))
def test_advantages_are_the_discounted_sums_of_their_definition(
    data: st.DataObject, gamma: float, decay: float
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    longest = max(lengths)
    draw = st.lists(NUMBERS, min_size=longest, max_size=longest)
    given_rewards, given_values = ([data.draw(draw) for _ in lengths] for _ in range(2))
    mask = rows(*([1.0] * n + [0.0] * (longest - n) for n in lengths))
    rewards, values = rows(*given_rewards) * mask, rows(*given_values)
    result, returns = advantages(rewards, values, mask, gamma=gamma, decay=decay)
    for row, length in enumerate(lengths):
        reward, value = rewards[row].tolist(), [*values[row, :length].tolist(), 0.0]
        delta = [reward[t] + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * decay) ** (later - t) * delta[later] for later in range(t, length))
            assert float(result[row, t]) == pytest.approx(wanted, abs=1e-9)
            assert float(returns[row, t]) == pytest.approx(wanted + value[t], abs=1e-9)
        assert not result[row, length:].any()
        assert not returns[row, length:].any()


def test_whitened_advantages_have_mean_0_and_variance_1_where_the_mask_is() -> None:
    mask = rows([1, 1, 1], [1, 0, 0])
    value = rows([1.0, 2.0, 3.0], [6.0, 99.0, 99.0])
    result = whitened(value, mask, 3.0, 3.5)
    there = result[mask.bool()]
    assert float(there.mean()) == pytest.approx(0, abs=1e-9)
    assert float(there.var(correction=0)) == pytest.approx(1, abs=1e-6)
    assert not result[~mask.bool()].any()


def of_one_token(ratio: float, advantage: float) -> Objective:
    zero = rows([0.0])
    logprobs = rows([math.log(ratio) - 1])
    return objective(logprobs, zero - 1, rows([advantage]), zero, zero, zero + 1, clip=0.2, value_weight=0.5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "policy", "clipped"),
    [
        (1.0, 2.0, -2.0, 0.0),
        (1.1, 2.0, -2.2, 0.0),  # inside the range
        (0.9, -2.0, 1.8, 0.0),
        (1.5, 2.0, -2.4, 1.0),  # A > 0: no more to gain beyond 1.2
        (0.5, 2.0, -1.0, 1.0),  # A > 0, too rare: not clipped, the loss is the larger one
        (1.5, -2.0, 3.0, 1.0),  # A < 0, too likely: not clipped
        (0.5, -2.0, 1.6, 1.0),  # A < 0: no more to gain below 0.8
    ],
)
def test_the_clipped_loss_of_one_token(ratio: float, advantage: float, policy: float, clipped: float) -> None:
    result = of_one_token(ratio, advantage)
    assert result.policy == pytest.approx(policy)
    assert float(result.loss) == pytest.approx(policy)
    assert result.clip_fraction == clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [(1.1, 2.0, -2.2), (1.5, 2.0, 0.0), (0.5, 2.0, -1.0), (0.9, -2.0, 1.8), (1.5, -2.0, 3.0), (0.5, -2.0, 0.0)],
)
def test_the_gradient_is_minus_ratio_times_advantage_and_0_where_clipped(
    ratio: float, advantage: float, slope: float
) -> None:
    logprobs = rows([math.log(ratio)]).requires_grad_()
    zero = rows([0.0])
    objective(logprobs, zero, rows([advantage]), zero, zero, zero + 1, clip=0.2, value_weight=1.0).loss.backward()
    assert float(logprobs.grad) == pytest.approx(slope, abs=1e-12)


def test_a_loss_by_hand_over_two_answers() -> None:
    """Three tokens: losses -1.2 (clipped), 0.8, -1; values off by 1, 2, 0. Padding holds what would overflow."""
    mask = rows([1, 1], [1, 0])
    logprobs = rows([math.log(1.4), math.log(0.8)], [0.0, 900.0])
    result = objective(
        logprobs,
        torch.zeros(2, 2),
        rows([1.0, -1.0], [1.0, 5.0]),
        rows([1.0, 2.0], [3.0, 50.0]),
        rows([2.0, 0.0], [3.0, 0.0]),
        mask,
        clip=0.2,
        value_weight=0.1,
    )
    assert result.policy == pytest.approx((-1.2 + 0.8 - 1.0) / 3)
    assert result.value == pytest.approx((1 + 4 + 0) / 3)
    assert float(result.loss) == pytest.approx((-1.4 + 0.1 * 5) / 3)
    assert result.clip_fraction == pytest.approx(1 / 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.4))
def test_the_gradient_is_the_numerical_one(seed: int, clip: float) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Any:
        return torch.randn(3, 4, generator=generator, dtype=torch.float64)

    mask = rows([1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0])
    old, advantage, returns = noise(), noise(), noise()
    # Ratios well inside and well outside the range: at its edges there is no derivative.
    shift = torch.tensor([-0.9, -0.5 * clip, 0.5 * clip, 0.9], dtype=torch.float64)
    logprobs = old + shift[torch.randint(4, (3, 4), generator=generator)]

    def loss(policy: Any, values: Any) -> Any:
        return objective(policy, old, advantage, values, returns, mask, clip=clip, value_weight=0.3).loss

    assert torch.autograd.gradcheck(loss, (logprobs.requires_grad_(), noise().requires_grad_()))
