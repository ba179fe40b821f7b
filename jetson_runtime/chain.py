"""A tower is a chain of segments; an exit is where you leave it. One piece of code runs both towers.

The decoder's caches have a fixed capacity and are updated in place: each segment's `present` output is the memory of
its `past` input. Leaving earlier for the rest of an answer is sound, because the deeper caches are not read again in
it; going deeper again is not, because they then have holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetson_runtime.backends import Backend, Buffer
from jetson_runtime.bundle import Bundle
from jetson_runtime.manifest import Engine

__all__ = ["Chain"]


class Chain:
    """The engines of a bundle, loaded once, with the buffers between them."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.backend = backend
        self.model = bundle.manifest.model
        manifest, model = bundle.manifest, self.model
        self._shared = {tensor.name: backend.share(tensor) for tensor in manifest.shared}
        self._vision = [(segment, backend.load(segment)) for segment in manifest.segments("vision")]
        self._decoder = [(segment, backend.load(segment)) for segment in manifest.segments("decoder")]
        self._heads = {
            tower: (manifest.head(tower), backend.load(manifest.head(tower))) for tower in ("vision", "decoder")
        }
        self._embedding = (manifest.embedding, backend.load(manifest.embedding))

        dtype = manifest.embedding.outputs[0].dtype
        capacity = model.kv_capacity
        allocate = backend.allocate
        self._pixels = allocate((1, 3, model.image_size, model.image_size), "float32")
        self._features = [allocate((1, model.vision_tokens, model.vision_width), dtype) for _ in range(2)]
        self._hidden = [allocate((1, capacity, model.decoder_width), dtype) for _ in range(2)]
        self._tokens = allocate((1, capacity), "int64")
        self._positions = allocate((1, capacity), "int64")
        self._mask = allocate((1, 1, capacity, capacity), "bool")
        self._write_index = allocate((1,), "int64")
        self._logits = allocate((1, model.vocabulary), "float32")
        self._caches: dict[str, Buffer] = {
            spec.name.removeprefix("past_"): allocate(_static(spec.shape), spec.dtype)
            for segment, _ in self._decoder
            for spec in segment.inputs
            if spec.name.startswith("past_")
        }
        # mask[i, j]: token i may look at entry j; a later token's rows are the window that starts at its position.
        self._mask.write(np.tri(capacity, dtype=np.bool_)[None, None])

    def prefill(
        self, token_ids: Sequence[int], decoder_exit: int, *, pixels: NDArray[np.float32] | None = None,
        image_at: int | None = None, vision_exit: int | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Run a prompt from an empty cache and return the logits [vocabulary] of its last token.

        `image_at` is where the prompt's image tokens begin; their embeddings come from `pixels` [1, 3, side, side]
        through the vision tower, left at `vision_exit`.
        """
        count, width = len(token_ids), self.model.decoder_width
        hidden = self._hidden[0].window((1, count, width))
        self._embed(token_ids, hidden)
        if pixels is not None and image_at is not None and vision_exit is not None:
            # The projector writes over the placeholders' embeddings, right where the decoder reads them.
            shape = (1, self.model.image_tokens, width)
            self.see(pixels, vision_exit, hidden.window(shape, image_at * width))
        return self._decode(0, count, decoder_exit)

    def step(self, token_id: int, position: int, decoder_exit: int) -> NDArray[np.float32]:
        """Run one more token, at cache entry `position`, and return its logits [vocabulary]."""
        self._embed([token_id], self._hidden[0].window((1, 1, self.model.decoder_width)))
        return self._decode(position, 1, decoder_exit)

    def see(self, pixels: NDArray[np.float32], vision_exit: int, embeddings: Buffer) -> None:
        """Run the vision tower up to `vision_exit` and its head, into `embeddings` [1, image tokens, decoder width]."""
        self._pixels.write(pixels)
        source, target = self._features
        for segment, engine in self._vision:
            if segment.first > vision_exit:
                break
            name, buffer = ("pixels", self._pixels) if segment.first == 1 else ("hidden", source)
            self._run(segment, engine, {name: buffer}, {"features": target})
            source, target = target, source
        head, engine = self._heads["vision"]
        self._run(head, engine, {"features": source}, {"embeddings": embeddings})

    def _embed(self, token_ids: Sequence[int], embeddings: Buffer) -> None:
        tokens = self._tokens.window((1, len(token_ids)))
        tokens.write(np.asarray(token_ids, np.int64)[None])
        self._run(*self._embedding, {"tokens": tokens}, {"embeddings": embeddings})

    def _decode(self, start: int, count: int, decoder_exit: int) -> NDArray[np.float32]:
        width, capacity = self.model.decoder_width, self.model.kv_capacity
        positions = self._positions.window((1, count))
        positions.write(np.arange(start, start + count)[None])
        self._write_index.write(np.array([start]))
        common = {
            "positions": positions,
            "mask": self._mask.window((1, 1, count, capacity), start * capacity),
            "write_index": self._write_index,
        }
        source, target = (buffer.window((1, count, width)) for buffer in self._hidden)
        for segment, engine in self._decoder:
            if segment.first > decoder_exit:
                break
            caches = {name: self._caches[name] for name in _cache_names(segment)}
            pasts = {f"past_{name}": buffer for name, buffer in caches.items()}
            presents = {f"present_{name}": buffer for name, buffer in caches.items()}
            self._run(segment, engine, {"hidden": source, **common, **pasts}, {"features": target, **presents})
            source, target = target, source
        head, engine = self._heads["decoder"]
        last = source.window((1, width), (count - 1) * width)
        self._run(head, engine, {"features": last}, {"logits": self._logits})
        self.backend.wait()
        logits: NDArray[np.float32] = self._logits.read()[0]
        return logits

    def _run(self, spec: Engine, engine: Any, inputs: dict[str, Buffer], outputs: dict[str, Buffer]) -> None:
        shared = {name: self._shared[name] for name in spec.shared}
        self.backend.enqueue(engine, {**inputs, **shared}, outputs)


def _static(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if isinstance(size, int))


def _cache_names(segment: Engine) -> list[str]:
    return [spec.name.removeprefix("past_") for spec in segment.inputs if spec.name.startswith("past_")]
