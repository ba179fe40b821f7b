"""Plays a profile back in virtual time: every depth at its measured speed, on any machine, in no time.

For integrators without hardware and for testing the policy. The answer is a fixed text; only the times mean something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jetson_runtime.backends.onnxruntime import HostBuffer
from jetson_runtime.bundle import TOKENIZER, Bundle
from jetson_runtime.errors import BackendError
from jetson_runtime.manifest import Engine, SharedTensor
from jetson_runtime.profile import LatencyProfile

__all__ = ["ANSWER", "SimulatedBackend"]

ANSWER = "This is a simulated answer: the times are those of the profile, the words are always the same."


class SimulatedBackend:
    """Adds an engine's profiled median to a clock of its own instead of running it; `slowdown` scales every time."""

    name = "simulated"

    def __init__(self, bundle: Bundle, profile: LatencyProfile | None, slowdown: float = 1.0) -> None:
        if profile is None:
            raise BackendError(
                f"{bundle.path} has no latency profile to play back",
                expected="a profile in the bundle, or --profile FILE",
                remedy="run 'engine-calibrate latency' on the device, or take a profile from one",
            )
        from tokenizers import Tokenizer

        model = bundle.manifest.model
        words = Tokenizer.from_file(str(bundle.file(TOKENIZER))).encode(ANSWER, add_special_tokens=False).ids
        self._script = [*words, model.stop_token_ids[0]]
        self._profile = profile
        self._slowdown = slowdown
        self._clock_ms = 0.0
        self._next = 0

    def load(self, engine: Engine) -> Engine:
        """Check that the profile knows the engine."""
        self._profile.engine_ms(engine.name, 1)
        return engine

    def share(self, tensor: SharedTensor) -> HostBuffer:
        """No weights are needed: one element stands for all."""
        return HostBuffer(np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape))

    def allocate(self, shape: tuple[int, ...], dtype: str) -> HostBuffer:
        """Memory that the system provides only where it is written."""
        return HostBuffer(np.zeros(shape, dtype))

    def enqueue(self, engine: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Let the engine's time pass; the decoder's head says the next word of the fixed text."""
        tokens = next(buffer.shape[1] if engine.role != "head" else 1 for buffer in inputs.values())
        self._clock_ms += self._slowdown * self._profile.engine_ms(
            engine.name, tokens if engine.tower == "decoder" else 1
        )
        if engine.role == "embedding":
            # A whole prompt starts the text afresh; a single token continues it where it stands in the fixed text.
            self._next = 0 if tokens > 1 else self._next + 1
        if engine.role == "head" and engine.tower == "decoder":
            logits = outputs["logits"].array
            logits[...] = 0.0
            logits[:, self._script[min(self._next, len(self._script) - 1)]] = 30.0

    def wait(self) -> None:
        """Nothing is pending."""

    def now_ms(self) -> float:
        """Virtual time since the backend was opened."""
        return self._clock_ms

    def close(self) -> None:
        """Nothing is held."""
