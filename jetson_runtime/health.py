"""Is a bundle healthy? It is if it answers, at every depth that may be chosen, on the backend that will run it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeAlias

from jetson_runtime.bundle import Bundle
from jetson_runtime.enforcement import Enforcement
from jetson_runtime.runtime import Request, Runtime

__all__ = ["PROMPT", "HealthCheck", "answers_at_every_depth"]

HealthCheck: TypeAlias = "Callable[[Bundle], None]"  # raises what is wrong

PROMPT = "Hello"
_MAX_TOKENS = 4


def answers_at_every_depth(bundle: Bundle, backend: str = "onnxruntime") -> None:
    """Load a bundle and let it answer one short prompt with a picture, greedily, at every depth that is admitted.

    What it answers is the refusal suite's matter.

    Raises:
        HoldfastError: it can't be loaded, or a depth does not answer. AdmissionError: no depth is admitted.
    """
    picture = _picture(bundle.manifest.model.image_size)
    with Runtime(bundle, backend, None, None) as runtime:
        for depth in Enforcement.of(bundle, allow_unadmitted=False).depths():
            runtime.invoke(Request(PROMPT, picture, max_tokens=_MAX_TOKENS, depth=depth.name))


def _picture(side: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(buffer, "PNG")
    return buffer.getvalue()
