"""What the next rollouts draw, exits and requests: those that fail most are drawn most, none is forgotten."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["TEXT_ALONE", "Curriculum"]

TEXT_ALONE = 0
"""The vision "exit" of prompts without a picture."""

T = TypeVar("T", bound=Hashable)


@dataclass
class Curriculum(Generic[T]):
    """Draws one of n items with a probability of `floor / n` plus the rest in proportion to its failures.

    `failures` are moving averages of the share of answers that were not as they should be, from 0 to 1; an item that
    was never drawn counts as failing always. `memory` is how much of the average one observation leaves.
    """

    floor: float
    memory: float
    failures: dict[T, float] = field(default_factory=dict)

    def probabilities(self, items: Sequence[T]) -> dict[T, float]:
        """For each item, how likely it is drawn; they sum to 1."""
        failing = {item: self.failures.get(item, 1.0) for item in items}
        total, count = sum(failing.values()), len(items)
        shares = {item: value / total if total else 1 / count for item, value in failing.items()}
        return {item: self.floor / count + (1 - self.floor) * shares[item] for item in items}

    def draw(self, items: Sequence[T], chance: random.Random) -> T:
        """One item."""
        return self.sample(items, 1, chance)[0]

    def sample(self, items: Sequence[T], count: int, chance: random.Random) -> list[T]:
        """`count` different items, drawn one after another (Efraimidis and Spirakis 2006)."""
        odds = self.probabilities(items)
        keys = {item: chance.random() ** (1 / odds[item]) if odds[item] else 0.0 for item in items}
        return sorted(items, key=keys.__getitem__, reverse=True)[:count]

    def seen(self, outcomes: Iterable[tuple[T, float]]) -> None:
        """Take in (item, share of failed answers) pairs."""
        for item, failed in outcomes:
            before = self.failures.get(item, failed)
            self.failures[item] = self.memory * before + (1 - self.memory) * failed
