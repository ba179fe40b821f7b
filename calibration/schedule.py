"""How often to run what: many runs of what is quick, fewer of what is slow, spread evenly over the whole time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from calibration.bench import Cell

__all__ = ["FEWEST", "in_turn", "runs_in_time"]

FEWEST = 5  # warm runs of anything, however slow, unless fewer are asked for
_HALVINGS = 40


def runs_in_time(estimates_ms: Mapping[Cell, float], count: int, limit_ms: float) -> dict[Cell, int]:
    """Runs per cell: `count`, or what fits `limit_ms` when every cell gets the same time, but at least FEWEST."""

    def runs(share_ms: float) -> dict[Cell, int]:
        low = min(count, FEWEST)
        return {cell: max(low, min(count, int(share_ms / ms))) for cell, ms in estimates_ms.items()}

    def fits(share_ms: float) -> bool:
        return sum(number * estimates_ms[cell] for cell, number in runs(share_ms).items()) <= limit_ms

    low, high = 0.0, count * max(estimates_ms.values())
    if fits(high):
        return dict.fromkeys(estimates_ms, count)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return runs(low)


def in_turn(runs: Mapping[Cell, int]) -> Iterator[Cell]:
    """Every cell as often as `runs` says, round-robin: a cell with fewer runs sits out rounds, evenly."""
    rounds = max(runs.values())
    for number in range(rounds):
        for cell, wanted in runs.items():
            if (number + 1) * wanted // rounds > number * wanted // rounds:
                yield cell
