"""The token loop: prompt in, tokens out one by one, until a stop token, the limit, the deadline or a cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers.decoders import DecodeStream

from jetson_runtime.chain import Chain
from jetson_runtime.ladder import OperatingPoint
from jetson_runtime.prompt import Prompt, Prompter
from jetson_runtime.sampling import Sampler

__all__ = ["Job", "Token", "run"]


@dataclass(frozen=True)
class Token:
    """One token of an answer, `at_ms` after the request; `text` is what it adds (a character may need several).

    `depth` is the name of the depth it came from, which a schedule changes under way.
    """

    id: int
    text: str
    depth: str
    at_ms: float


@dataclass(frozen=True)
class Job:
    """Everything that one answer needs. Times are on the backend's clock.

    `step_ms` says what one more token may take, by the exit where it leaves the decoder.
    """

    prompt: Prompt
    pixels: NDArray[np.float32] | None
    point: OperatingPoint
    max_tokens: int
    sample: Sampler
    started_ms: float
    deadline_ms: float = math.inf
    step_ms: Callable[[int], float] = lambda exit: 0.0


def run(chain: Chain, prompter: Prompter, job: Job, cancelled: Callable[[], bool]) -> Iterator[Token | str]:
    """Yield the tokens of an answer, and at last its finish reason: stop, length, deadline or cancelled."""
    now, stop_ids = chain.backend.now_ms, frozenset(chain.model.stop_token_ids)
    position = len(job.prompt.token_ids)
    text = DecodeStream(skip_special_tokens=True)
    logits = chain.prefill(
        job.prompt.token_ids,
        job.point.decoder_exit(0),
        pixels=job.pixels,
        image_at=job.prompt.image_at,
        vision_exit=job.point.vision,
    )
    for count in range(1, job.max_tokens + 1):
        token_id = job.sample(logits)
        if token_id in stop_ids:
            yield "stop"
            return
        piece = text.step(prompter.tokenizer, token_id) or ""
        yield Token(token_id, piece, job.point.depth_at(count - 1).name, now() - job.started_ms)
        if cancelled():
            yield "cancelled"
            return
        if count == job.max_tokens:
            break
        exit = job.point.decoder_exit(count)
        if now() + job.step_ms(exit) > job.deadline_ms:
            yield "deadline"
            return
        logits = chain.step(token_id, position, exit)
        position += 1
    yield "length"
