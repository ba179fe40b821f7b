"""Measured latencies: what the policy predicts from and what the simulated backend plays back."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError
from jetson_runtime.files import read_json
from jetson_runtime.ladder import OperatingPoint

__all__ = ["PHASES", "QUANTILES", "SCHEMA", "SCOPES", "STATES", "LatencyProfile", "Row"]

SCHEMA = "holdfast/profile/1"
PHASES = ("vision", "prefill", "decode")
SCOPES = ("engine", "exit")
STATES = ("warm", "cold")
QUANTILES = ("p50", "p90", "p99")
_LONGEST_MS = 1e9


@dataclass(frozen=True)
class Row:
    """One measurement, in milliseconds of wall time up to the end of the backend's `wait`.

    `scope` "exit": `layer` is where the tower is left, `name` is empty, and the time is that of the whole phase.
    Vision: from preprocessed pixels in memory, through all segments up to the exit and the projector. Prefill: from
    token ids, through the embedding, all segments up to the exit and the head, to logits that were read. Decode: the
    same for one more token. Reading and resizing a picture come before: a request's budget pays for them by themselves.
    `scope` "engine": `name` is the engine's, and the time is that of one run of it alone, with a wait before and after;
    `layer` is its last block (0 for heads and the embedding). The decoder's head always gets one token, so it has
    decode rows only.

    `tokens` is how many go through at once (in the vision tower: its patches and class token).

    `state` "warm": the machine is busy with other runs right before, as in an answer; a decode run follows another one.
    `state` "cold": the run follows a pause in which this process was idle, before which it overwrote 64 MiB of memory.
    So threads and clocks may have gone to sleep, and CPU caches up to that size hold nothing of the model. The engines
    stay loaded, as in a service that waits for its next request: what the very first run after loading costs more is
    not in it. An engine's cold time is that of its first run after such a pause, behind the engines before it.

    A quantile is the smallest of the `count` measured times that at least so many percent of them do not exceed
    (nearest rank): always a time that was seen, and with fewer than 100 runs the p99 is the longest.
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

    @property
    def key(self) -> tuple[str, str, str, int, int, str]:
        """What was measured; a profile has one row for it."""
        return (self.phase, self.scope, self.name, self.layer, self.tokens, self.state)


@dataclass(frozen=True)
class LatencyProfile:
    """All measurements of one bundle on one machine in one power mode, and what they were taken on.

    `machine` is what `machine_facts` found; `model` names the model, its ladder and its capacity; `method` says how it
    was measured.
    """

    rows: tuple[Row, ...]
    engines_digest: str
    backend: str
    machine: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)

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
            rows = tuple(_row(row) for row in value["rows"])
            if len({row.key for row in rows}) < len(rows):
                raise ValueError("two rows for the same measurement")
            texts = [_typed(value[name], str, name) for name in ("engines_digest", "backend")]
            maps = [_typed(value.get(name, {}), dict, name) for name in ("machine", "model", "method")]
            return cls(rows, *texts, *maps)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is not a latency profile",
                found=error,
                expected=SCHEMA,
                remedy="run 'engine-calibrate latency' again",
            ) from None

    def vision_ms(self, exit: int) -> float:
        """The image encoder up to `exit`, and the projector: 99th percentile."""
        return self.phase_ms("vision", exit)

    def prefill_ms(self, exit: int, tokens: int) -> float:
        """A prompt of `tokens` tokens through the decoder up to `exit`: 99th percentile, interpolated."""
        return self.phase_ms("prefill", exit, tokens)

    def step_ms(self, exit: int) -> float:
        """One more token through the decoder up to `exit`: 99th percentile."""
        return self.phase_ms("decode", exit)

    def answer_ms(self, point: OperatingPoint, *, prompt_tokens: int, image: bool, tokens: int) -> float:
        """Predicted time for an answer of `tokens` tokens; the prompt already gives the first."""
        first = self.first_token_ms(point, prompt_tokens=prompt_tokens, image=image)
        exits = Counter(point.decoder_exit(given) for given in range(1, tokens))
        return first + sum(count * self.step_ms(exit) for exit, count in exits.items())

    def first_token_ms(self, point: OperatingPoint, *, prompt_tokens: int, image: bool) -> float:
        """Predicted time to the first token."""
        vision_ms = self.vision_ms(point.vision) if image else 0.0
        return vision_ms + self.prefill_ms(point.decoder_exit(0), prompt_tokens)

    def phase_ms(
        self, phase: str, exit: int, tokens: int = 1, *, quantile: str = "p99", state: str = "warm"
    ) -> float:  # fmt: skip
        """A quantile of a whole phase up to `exit`; more tokens are never predicted to take less time.

        Raises:
            InputError: the profile has no such measurement.
        """
        return self._look_up((phase, exit, state, quantile), tokens, f"{state} {phase} time for exit {exit}")

    def engine_ms(self, name: str, tokens: int) -> float:
        """Typical (median) time of one engine, warm: what the simulated backend plays back."""
        return self._look_up(("engine", name, "warm", "p50"), tokens, f"time for engine '{name}'")

    def _look_up(self, key: tuple[str, str | int, str, str], tokens: int, what: str) -> float:
        curve = self._curves.get(key)
        if curve is None:
            raise InputError(f"the profile has no {what}", remedy="run 'engine-calibrate latency' on this bundle")
        return _interpolate(curve, tokens)

    @cached_property
    def _curves(self) -> dict[tuple[str, str | int, str, str], list[tuple[int, float]]]:
        """Times by token count, each at least that of fewer tokens: a shorter run that met a disturbance counts too."""
        curves: dict[tuple[str, str | int, str, str], list[tuple[int, float]]] = {}
        for row in sorted(self.rows, key=lambda row: row.tokens):
            what = ("engine", row.name) if row.scope == "engine" else (row.phase, row.layer)
            for quantile in QUANTILES:
                curve = curves.setdefault((*what, row.state, quantile), [])
                time: float = getattr(row, f"{quantile}_ms")
                if curve:
                    time = max(time, curve[-1][1])
                if curve and curve[-1][0] == row.tokens:
                    curve.pop()
                curve.append((row.tokens, time))
        return curves


def _row(value: Any) -> Row:
    row = Row(**value)
    for name, low in (("layer", 0), ("tokens", 1), ("count", 1)):
        if type(getattr(row, name)) is not int or getattr(row, name) < low:
            raise ValueError(f"{name} of {row}")
    for name, allowed in (("phase", PHASES), ("scope", SCOPES), ("state", STATES)):
        if getattr(row, name) not in allowed:
            raise ValueError(f"{name} of {row}")
    times = (row.p50_ms, row.p90_ms, row.p99_ms)
    if not all(type(time) in (int, float) for time in times) or not 0 < times[0] <= times[1] <= times[2] < _LONGEST_MS:
        raise ValueError(f"times of {row}")
    _typed(row.name, str, "name")
    return row


def _typed(value: Any, kind: type[Any], name: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"'{name}' is not of type {kind.__name__}")
    return value


def _interpolate(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """Piecewise linear in the token count; below the first point its value, beyond the last its slope continues."""
    at = bisect_left(points, (tokens, 0.0))
    if at == 0 or len(points) == 1:
        return points[0][1]
    (n0, t0), (n1, t1) = points[min(at, len(points) - 1) - 1 :][:2]
    return t1 if tokens == n1 else t0 + (t1 - t0) * ((tokens - n0) / (n1 - n0))
