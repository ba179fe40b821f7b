"""L-PPO's mathematics: the paper's loss (Bachu et al. 2025, section 3) on padded batches of answers.

All tensors are float [answers, tokens]; `mask` is 1 where an answer has a token, 0 after its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require

__all__ = ["Objective", "advantages", "divergence", "objective", "token_rewards", "whitened"]


def token_rewards(reward: Any, logprobs: Any, reference: Any, mask: Any, kl_weight: float) -> Any:
    """`R_y = r(x, y) - eta KL(pi_RL || pi_SFT)`, spread over the answer's tokens.

    Each token pays `eta (log pi_RL - log pi_SFT)`, whose expectation under the policy is the divergence; the last one
    earns `reward` [answers].
    """
    spread = -kl_weight * (logprobs - reference) * mask
    last = mask.sum(1).long() - 1
    return spread.scatter_add(1, last[:, None], reward[:, None].to(spread.dtype))


def advantages(rewards: Any, values: Any, mask: Any, *, gamma: float, decay: float) -> tuple[Any, Any]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16) and the returns that values should reach.

    `delta_t = r_t + gamma V_(t+1) - V_t`, `A_t = delta_t + gamma decay A_(t+1)`; after an answer's end all are 0.
    """
    torch = require("torch", "realign")
    result, carried = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(carried)
    for t in reversed(range(rewards.shape[1])):
        there = mask[:, t]
        delta = rewards[:, t] + gamma * following - values[:, t]
        carried = (delta + gamma * decay * carried) * there
        following = values[:, t] * there
        result[:, t] = carried
    return result, (result + values) * mask


def whitened(value: Any, mask: Any, mean: float, variance: float) -> Any:
    """`value` shifted and scaled by the batch's `mean` and `variance`, 0 where `mask` is."""
    return (value - mean) * (variance + 1e-8) ** -0.5 * mask


def divergence(reference: Any, policy: Any) -> Any:
    """Mean of `KL(reference || policy)` over rows of log-probabilities, [rows, vocabulary]; 0 where there are none."""
    return (reference.exp() * (reference - policy)).sum() / max(1, len(reference))


@dataclass(frozen=True)
class Objective:
    """The loss (scalar, to be minimised) and what a curve shows of it."""

    loss: Any
    policy: float
    value: float
    clip_fraction: float


def objective(
    logprobs: Any, old: Any, advantage: Any, values: Any, returns: Any, mask: Any, *, clip: float, value_weight: float
) -> Objective:
    """`E[max(-K A, -clip(K, 1 - eps, 1 + eps) A)] + c1 E[(V - R)^2]` with `K = exp(log pi - log pi_old)`.

    Expectations are means over the answers' tokens.
    """
    torch = require("torch", "realign")
    count = mask.sum().clamp(min=1)
    # Padding holds no numbers of interest; exp of it must not overflow into the sum.
    ratio = ((logprobs - old) * mask).exp()
    losses = torch.maximum(-ratio * advantage, -ratio.clamp(1 - clip, 1 + clip) * advantage)
    policy = (losses * mask).sum() / count
    value = ((values - returns).square() * mask).sum() / count
    clipped = (((ratio - 1).abs() > clip) * mask).sum() / count
    return Objective(policy + value_weight * value, float(policy.detach()), float(value.detach()), float(clipped))
