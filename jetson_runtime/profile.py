"""Measured latencies: what the policy predicts from and what the simulated backend plays back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError
from jetson_runtime.files import read_json
from jetson_runtime.ladder import Depth

__all__ = ["PHASES", "SCHEMA", "LatencyProfile", "Row"]

SCHEMA = "holdfast/profile/1"
PHASES = ("vision", "prefill", "decode")


@dataclass(frozen=True)
class Row:
    """One measurement.

    `scope` is "engine" (then `name` is the engine's) or "exit" (then `layer` is where the tower is left, and the time is
    that of the whole phase: all segments up to the exit, the head, and the runtime's own work). `tokens` is how many go
    through at once. Warm rows follow other runs at once; cold rows follow a pause, with idle clocks and caches.
    """

    phase: str
    scope: str
    name: str
    layer: int
    tokens: int
    state: str
    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class LatencyProfile:
    """All measurements of one bundle on one machine in one power mode, and what they were taken on."""

    rows: tuple[Row, ...]
    engines_digest: str
    backend: str
    machine: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The value that a profile file holds."""
        return {**asdict(self), "schema": SCHEMA}

    @classmethod
    def read(cls, path: Path) -> LatencyProfile:
        """Read a profile file.

        Raises:
            InputError: not a profile, or a row that is not a measurement.
        """
        value = read_json(path)
        try:
            if value["schema"] != SCHEMA:
                raise ValueError(f"schema {value['schema']!r}")
            rows = tuple(Row(**row) for row in value["rows"])
            for row in rows:
                if row.phase not in PHASES or not 0 < row.p50_ms <= row.p90_ms <= row.p99_ms < float("inf"):
                    raise ValueError(f"row {row}")
            return cls(rows, value["engines_digest"], value["backend"], value["machine"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is not a latency profile",
                found=error,
                expected=SCHEMA,
                remedy="run 'engine-calibrate latency' again",
            ) from None

    def vision_ms(self, exit: int) -> float:
        """The image encoder up to `exit`, and the projector: 99th percentile."""
        return self._exit("vision", exit, None)

    def prefill_ms(self, exit: int, tokens: int) -> float:
        """A prompt of `tokens` tokens through the decoder up to `exit`: 99th percentile, interpolated between counts."""
        return self._exit("prefill", exit, tokens)

    def step_ms(self, exit: int) -> float:
        """One more token through the decoder up to `exit`: 99th percentile."""
        return self._exit("decode", exit, None)

    def answer_ms(self, depth: Depth, *, prompt_tokens: int, image: bool, tokens: int) -> float:
        """Predicted time for an answer of `tokens` tokens; the prompt already gives the first (docs/architecture.md)."""
        first = self.first_token_ms(depth, prompt_tokens=prompt_tokens, image=image)
        return first + max(0, tokens - 1) * self.step_ms(depth.decoder)

    def first_token_ms(self, depth: Depth, *, prompt_tokens: int, image: bool) -> float:
        """Predicted time to the first token."""
        return (self.vision_ms(depth.vision) if image else 0.0) + self.prefill_ms(depth.decoder, prompt_tokens)

    def _exit(self, phase: str, layer: int, tokens: int | None) -> float:
        rows = [
            row for row in self.rows if (row.scope, row.phase, row.layer, row.state) == ("exit", phase, layer, "warm")
        ]
        if not rows:
            raise InputError(
                f"the profile has no {phase} time for exit {layer}",
                remedy="run 'engine-calibrate latency' on this bundle",
            )
        points = sorted((row.tokens, row.p99_ms) for row in rows)
        return points[0][1] if tokens is None else _interpolate(points, tokens)

    def engine_ms(self, name: str, tokens: int) -> float:
        """Typical (median) time of one engine, warm: what the simulated backend plays back."""
        rows = [row for row in self.rows if (row.scope, row.name, row.state) == ("engine", name, "warm")]
        if not rows:
            raise InputError(
                f"the profile has no time for engine '{name}'", remedy="run 'engine-calibrate latency' on this bundle"
            )
        return _interpolate(sorted((row.tokens, row.p50_ms) for row in rows), tokens)


def _interpolate(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """Piecewise linear in the token count; below the first point its value, beyond the last its slope continues."""
    if tokens <= points[0][0] or len(points) == 1:
        return points[0][1]
    for (n0, t0), (n1, t1) in zip(points, points[1:], strict=False):
        if tokens <= n1:
            break
    return max(t0, t0 + (t1 - t0) * (tokens - n0) / (n1 - n0))
