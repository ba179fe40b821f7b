"""From measured times to a profile's row."""

from __future__ import annotations

from collections.abc import Sequence

from jetson_runtime.profile import Row

__all__ = ["METHOD", "nearest_rank", "summarise"]

METHOD = "nearest rank: the smallest measured time that at least so many percent of the runs do not exceed"

_SHORTEST_MS = 1e-6  # one nanosecond: what the clock can tell; a time of 0 can't be scaled by a drift factor


def nearest_rank(times: Sequence[float], percent: int) -> float:
    """The smallest of `times` that at least `percent` (1 to 100) percent of them do not exceed; nothing is left out."""
    return sorted(times)[max(1, -(-percent * len(times) // 100)) - 1]


def summarise(key: tuple[str, str, str, int, int, str], times: Sequence[float]) -> Row:
    """The row of the measurement `key` (`Row.key`), from all its runs in milliseconds."""
    phase, scope, name, layer, tokens, state = key
    p50, p90, p99 = (max(_SHORTEST_MS, round(nearest_rank(times, percent), 6)) for percent in (50, 90, 99))
    return Row(phase, scope, name, layer, tokens, state, len(times), p50, p90, p99)
