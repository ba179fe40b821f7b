"""The simulated backend adds up engine rows: with exits that are the exact sums, it takes exactly the exits' times."""

from __future__ import annotations

import numpy as np
import pytest

from jetson_runtime.backends.simulated import SimulatedBackend
from jetson_runtime.bundle import Bundle
from jetson_runtime.chain import Chain
from jetson_runtime.profile import LatencyProfile


@pytest.mark.parametrize("prompt_tokens", [8, 12, 16])
def test_a_simulated_answer_takes_the_sum_of_its_phases(
    bundle: Bundle, handmade: LatencyProfile, prompt_tokens: int
) -> None:
    backend = SimulatedBackend(bundle, handmade)
    chain = Chain(bundle, backend)
    side = bundle.manifest.model.image_size
    for depth in bundle.manifest.ladder:
        started_ms = backend.now_ms()
        chain.prefill(
            [1] * prompt_tokens,
            depth.decoder,
            pixels=np.zeros((1, 3, side, side), np.float32),
            image_at=1,
            vision_exit=depth.vision,
        )
        first_ms = backend.now_ms() - started_ms
        vision = handmade.phase_ms("vision", depth.vision, quantile="p50")
        prefill = handmade.phase_ms("prefill", depth.decoder, prompt_tokens, quantile="p50")
        assert first_ms == vision + prefill
        for position in (prompt_tokens, prompt_tokens + 1):
            chain.step(1, position, depth.decoder)
        step = handmade.phase_ms("decode", depth.decoder, quantile="p50")
        assert backend.now_ms() - started_ms == first_ms + 2 * step
