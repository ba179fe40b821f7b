"""The vocabulary: exits, depths, ladders, schedules and budgets (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jetson_runtime.errors import ConfigError, InputError

__all__ = ["POINTS", "Budget", "Depth", "Ladder", "OperatingPoint", "Schedule"]

POINTS: tuple[str | int, ...] = ("vision", "prefill", 1, 4, 16)
"""Where the refusal suite changes the depth of an answer that is under way."""


@dataclass(frozen=True)
class Depth:
    """A named operating point: how many blocks each tower executes (1-based; Hugging Face's `hidden_states[n]`)."""

    name: str
    vision: int
    decoder: int

    def __str__(self) -> str:
        return f"{self.name} (vision {self.vision}, decoder {self.decoder})"

    @property
    def operation(self) -> tuple[int, int, int, int]:
        """As `Schedule.operation`: a depth is the schedule that never changes."""
        return self.vision, self.decoder, 0, self.decoder

    def decoder_exit(self, given: int) -> int:
        """As `Schedule.decoder_exit`: the same for every token."""
        return self.decoder

    @property
    def start(self) -> Depth:
        """As `Schedule.start`: itself."""
        return self

    def depth_at(self, given: int) -> Depth:
        """As `Schedule.depth_at`: itself, always."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """The form in which manifests and reports carry a depth."""
        return {"name": self.name, "vision": self.vision, "decoder": self.decoder}


@dataclass(frozen=True)
class Schedule:
    """An answer that begins at one depth and, from a point on, leaves earlier: at the decoder exit of `then`.

    `at` "vision": the picture goes through the image encoder at `start`, everything after it runs at `then`. `at`
    "prefill": the prompt too runs at `start`, and so the answer's first token comes from there. `at` a number n: n
    further tokens come from `start`. It never goes deeper again: the caches behind an exit that was left have holes.
    """

    start: Depth
    then: Depth
    at: str | int

    @property
    def name(self) -> str:
        """`d4>d1@prefill`."""
        return f"{self.start.name}>{self.then.name}@{self.at}"

    def __str__(self) -> str:
        return self.name

    @property
    def vision(self) -> int:
        """Where the image encoder is left."""
        return self.start.vision

    def depth_at(self, given: int) -> Depth:
        """The depth at whose decoder exit a token is made after `given` others of the answer."""
        if self.at == "vision":
            return self.then
        last = 0 if self.at == "prefill" else int(self.at)
        return self.start if given <= last else self.then

    def decoder_exit(self, given: int) -> int:
        """Where the decoder is left to make a token after `given` others of the answer."""
        return self.depth_at(given).decoder

    @property
    def operation(self) -> tuple[int, int, int, int]:
        """(vision exit, first decoder exit, tokens after the first one from there, second decoder exit).

        Schedules and depths of one operation give the same answers.
        """
        first, second = self.decoder_exit(0), self.then.decoder
        steps = int(self.at) if isinstance(self.at, int) and first != second else 0
        return self.start.vision, first, steps, second

    def to_dict(self) -> dict[str, Any]:
        """The form in which reports carry a schedule."""
        return {"name": self.name, "start": self.start.name, "then": self.then.name, "at": self.at}


OperatingPoint: TypeAlias = "Depth | Schedule"
"""How an answer is made."""


@dataclass(frozen=True)
class Ladder:
    """The depths of a bundle, shallowest first; no tower gets shallower on the way up, and every step goes deeper.

    Raises:
        ConfigError: no depth, two of one name, or a step that does not go deeper.
    """

    depths: tuple[Depth, ...]

    def __post_init__(self) -> None:
        if not self.depths:
            raise ConfigError("the ladder has no depth", expected="at least one depth with vision and decoder exits")
        names = [depth.name for depth in self.depths]
        if len(set(names)) != len(names):
            raise ConfigError("two depths of the ladder have the same name", found=", ".join(names))
        for low, high in zip(self.depths, self.depths[1:], strict=False):
            if high.vision < low.vision or high.decoder < low.decoder or _exits(high) == _exits(low):
                raise ConfigError(
                    "the ladder is not increasing",
                    found=f"{high} after {low}",
                    expected="each depth at least as deep as the one before in both towers, and deeper in one",
                    remedy="list the depths from the shallowest to the deepest",
                )

    @classmethod
    def from_dicts(cls, entries: Sequence[Mapping[str, Any]]) -> Ladder:
        """The ladder that `to_dicts` wrote."""
        return cls(tuple(Depth(str(entry["name"]), int(entry["vision"]), int(entry["decoder"])) for entry in entries))

    def to_dicts(self) -> list[dict[str, Any]]:
        """The form in which manifests and reports carry a ladder."""
        return [depth.to_dict() for depth in self.depths]

    def __iter__(self) -> Iterator[Depth]:
        return iter(self.depths)

    def __len__(self) -> int:
        return len(self.depths)

    @property
    def full(self) -> Depth:
        """Full depth: the deepest one, the reference for quality and refusals."""
        return self.depths[-1]

    def __getitem__(self, name: str) -> Depth:
        for depth in self.depths:
            if depth.name == name:
                return depth
        raise InputError(f"the ladder has no depth '{name}'", expected=", ".join(depth.name for depth in self.depths))

    def schedules(self, points: Sequence[str | int] = POINTS) -> tuple[Schedule, ...]:
        """Every pair of depths, from the deeper to the shallower one, at every point."""
        pairs = [(start, then) for n, start in enumerate(self.depths) for then in self.depths[:n]]
        return tuple(Schedule(start, then, at) for start, then in pairs for at in points)

    def schedule(self, name: str) -> Schedule:
        """The schedule of that name.

        Raises:
            InputError: there is none; says what there is.
        """
        for schedule in self.schedules():
            if schedule.name == name:
                return schedule
        pairs = ", ".join(dict.fromkeys(f"{each.start.name}>{each.then.name}" for each in self.schedules()))
        points = ", ".join(f"@{point}" for point in POINTS)
        raise InputError(
            f"the ladder has no schedule '{name}'",
            expected=f"one of {pairs}, each with one of {points}" if pairs else "none: the ladder has a single depth",
            remedy="name one of these in quotes" if pairs else "name a depth",
        )

    def vision_exits(self) -> tuple[int, ...]:
        """The layers where the vision tower may be left, shallowest first."""
        return tuple(sorted({depth.vision for depth in self.depths}))

    def decoder_exits(self) -> tuple[int, ...]:
        """The layers where the decoder may be left, shallowest first."""
        return tuple(sorted({depth.decoder for depth in self.depths}))


def _exits(depth: Depth) -> tuple[int, int]:
    return depth.vision, depth.decoder


@dataclass(frozen=True)
class Budget:
    """What the caller allows: milliseconds for the whole answer, or for the first token and for each one after it.

    Raises:
        InputError: neither form or both, or a time that is not greater than zero.
    """

    answer_ms: float | None = None
    first_token_ms: float | None = None
    per_token_ms: float | None = None

    def __post_init__(self) -> None:
        parts = (self.first_token_ms, self.per_token_ms)
        if (self.answer_ms is None) == all(part is None for part in parts) or parts.count(None) == 1:
            raise InputError(
                "the budget is not complete",
                found=str(self),
                expected="either answer_ms, or first_token_ms and per_token_ms together",
            )
        for name in ("answer_ms", "first_token_ms", "per_token_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(
                    f"the budget's {name} is not a time that can be kept",
                    found=f"{value} ms",
                    expected="a number of milliseconds greater than 0",
                )

    def total_ms(self, tokens: int) -> float:
        """The time in which an answer of `tokens` tokens must be complete."""
        if self.answer_ms is not None:
            return self.answer_ms
        assert self.first_token_ms is not None and self.per_token_ms is not None
        return self.first_token_ms + max(0, tokens - 1) * self.per_token_ms
