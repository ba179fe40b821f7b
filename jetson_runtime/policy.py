"""Which depth: the deepest one whose predicted time fits the budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from jetson_runtime.errors import BudgetError
from jetson_runtime.ladder import Budget, OperatingPoint
from jetson_runtime.profile import LatencyProfile

__all__ = ["Choice", "choose"]

Point = TypeVar("Point", bound=OperatingPoint)


@dataclass(frozen=True)
class Choice(Generic[Point]):
    """A depth or a pinned schedule, and the time that the profile's 99th percentiles predict for it."""

    depth: Point
    predicted_ms: float
    first_token_ms: float


def choose(
    depths: Iterable[Point],
    profile: LatencyProfile,
    budget: Budget,
    *,
    prompt_tokens: int,
    image: bool,
    tokens: int,
    spent_ms: float = 0.0,
) -> Choice[Point]:
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
    raise _too_late(choices[0], profile, budget, tokens, spent_ms)


def _too_late(
    shallowest: Choice[Point], profile: LatencyProfile, budget: Budget, tokens: int, spent_ms: float
) -> BudgetError:
    """Names the part of the budget that even the shallowest depth exceeds."""
    part, allowed_ms, predicted_ms = "answer", budget.answer_ms, shallowest.predicted_ms
    remedy = f"allow more time, or fewer tokens than {tokens}"
    if allowed_ms is None:
        part, allowed_ms, predicted_ms = "give a first token", budget.first_token_ms, shallowest.first_token_ms
        remedy = "allow more time, or shorten the prompt"
        assert allowed_ms is not None
        if spent_ms + predicted_ms <= allowed_ms:
            part, allowed_ms, spent_ms = "give each further token", budget.per_token_ms, 0.0
            predicted_ms, remedy = profile.step_ms(shallowest.depth.decoder_exit(1)), "allow more time per token"
            assert allowed_ms is not None
    return BudgetError(
        f"no depth can {part} in time, not even {shallowest.depth}",
        budget_ms=max(0.0, allowed_ms - spent_ms),
        predicted_ms=predicted_ms,
        remedy=remedy,
    )


def _fits(choice: Choice[Point], profile: LatencyProfile, budget: Budget, tokens: int, spent_ms: float) -> bool:
    if budget.answer_ms is not None:
        return spent_ms + choice.predicted_ms <= budget.answer_ms
    assert budget.first_token_ms is not None and budget.per_token_ms is not None
    in_time = spent_ms + choice.first_token_ms <= budget.first_token_ms
    # A schedule's second token is never made at a shallower exit than those after it.
    return in_time and (tokens == 1 or profile.step_ms(choice.depth.decoder_exit(1)) <= budget.per_token_ms)
