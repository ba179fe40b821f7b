"""Which exits the next rollouts leave at: those that fail most are drawn most, none is forgotten."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["TEXT_ALONE", "Curriculum"]

TEXT_ALONE = 0
"""The vision "exit" of prompts without a picture."""


@dataclass
class Curriculum:
    """Draws one of `exits` with a probability of `floor / n` plus the rest in proportion to its failures.

    `failures` are moving averages of the share of answers that were not as they should be, from 0 to 1; an exit that
    was never drawn counts as failing always. `memory` is how much of the average one observation leaves.
    """

    exits: Sequence[int]
    floor: float
    memory: float
    failures: dict[int, float] = field(default_factory=dict)

    def probabilities(self) -> dict[int, float]:
        """For each exit, how likely it is drawn; they sum to 1."""
        failing = {exit: self.failures.get(exit, 1.0) for exit in self.exits}
        total, count = sum(failing.values()), len(self.exits)
        shares = {exit: value / total if total else 1 / count for exit, value in failing.items()}
        return {exit: self.floor / count + (1 - self.floor) * shares[exit] for exit in self.exits}

    def draw(self, chance: random.Random) -> int:
        """One exit."""
        odds = self.probabilities()
        return chance.choices(list(odds), list(odds.values()))[0]

    def seen(self, outcomes: Iterable[tuple[int, float]]) -> None:
        """Take in (exit, share of failed answers) pairs."""
        for exit, failed in outcomes:
            before = self.failures.get(exit, failed)
            self.failures[exit] = self.memory * before + (1 - self.memory) * failed
