"""Which depth: the deepest one whose predicted time fits the budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jetson_runtime.errors import BudgetError
from jetson_runtime.ladder import Budget, Depth
from jetson_runtime.profile import LatencyProfile

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """A depth, and the time that the profile's 99th percentiles predict for it."""

    depth: Depth
    predicted_ms: float
    first_token_ms: float


def choose(
    depths: Iterable[Depth],
    profile: LatencyProfile,
    budget: Budget,
    *,
    prompt_tokens: int,
    image: bool,
    tokens: int,
    spent_ms: float = 0.0,
) -> Choice:
    """The deepest of `depths` (shallowest first) that fits what is left of the budget.

    `tokens` is the longest answer allowed: a shorter one is only faster. `spent_ms` has passed already.

    Raises:
        BudgetError: not even the shallowest fits; says by how much.
    """
    choices = [
        Choice(
            depth,
            profile.answer_ms(depth, prompt_tokens=prompt_tokens, image=image, tokens=tokens),
            profile.first_token_ms(depth, prompt_tokens=prompt_tokens, image=image),
        )
        for depth in depths
    ]
    fitting = [choice for choice in choices if _fits(choice, profile, budget, tokens, spent_ms)]
    if fitting:
        return fitting[-1]
    shallowest = choices[0]
    raise BudgetError(
        f"no depth can answer in time, not even {shallowest.depth}",
        budget_ms=max(0.0, budget.total_ms(tokens) - spent_ms),
        predicted_ms=shallowest.predicted_ms,
        remedy=f"allow more time, or fewer tokens than {tokens}",
    )


def _fits(choice: Choice, profile: LatencyProfile, budget: Budget, tokens: int, spent_ms: float) -> bool:
    if budget.answer_ms is not None:
        return spent_ms + choice.predicted_ms <= budget.answer_ms
    assert budget.first_token_ms is not None and budget.per_token_ms is not None
    in_time = spent_ms + choice.first_token_ms <= budget.first_token_ms
    return in_time and (tokens == 1 or profile.step_ms(choice.depth.decoder) <= budget.per_token_ms)
