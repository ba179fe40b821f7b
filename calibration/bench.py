"""The thing that is measured: a bundle's chain on a backend, one cell at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetson_runtime.backends import Backend, Buffer
from jetson_runtime.bundle import Bundle
from jetson_runtime.chain import Chain
from jetson_runtime.manifest import Engine, SharedTensor

__all__ = ["Bench", "Cell", "Stopwatch"]

_EVICTED_BYTES = 64 << 20  # documented in jetson_runtime.profile.Row
Measured = list[tuple[tuple[str, str, str, int, int], float]]


class Stopwatch:
    """A backend that passes everything on; while `laps` is a list, every engine runs alone and its time goes there."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.laps: list[tuple[Engine, float]] | None = None
        self._backend = backend

    def load(self, engine: Engine) -> Any:
        """Load, and remember which engine it is."""
        return engine, self._backend.load(engine)

    def share(self, tensor: SharedTensor) -> Buffer:
        """Pass on."""
        return self._backend.share(tensor)

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Pass on."""
        return self._backend.allocate(shape, dtype)

    def enqueue(self, engine: Any, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Pass on, with a wait before and after if laps are taken."""
        spec, loaded = engine
        if self.laps is None:
            self._backend.enqueue(loaded, inputs, outputs)
            return
        self._backend.wait()
        started_ms = self._backend.now_ms()
        self._backend.enqueue(loaded, inputs, outputs)
        self._backend.wait()
        self.laps.append((spec, self._backend.now_ms() - started_ms))

    def wait(self) -> None:
        """Pass on."""
        self._backend.wait()

    def now_ms(self) -> float:
        """Pass on."""
        return self._backend.now_ms()

    def close(self) -> None:
        """Pass on."""
        self._backend.close()


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a phase at a token count up to an exit, or (exit None) engine by engine at full depth."""

    phase: str
    tokens: int
    exit: int | None


class Bench:
    """A loaded bundle with inputs to run it on."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.model = bundle.manifest.model
        self.watch = Stopwatch(backend)
        self.chain = Chain(bundle, self.watch)
        # Every place where a tower can be left, the ladder's and others that build.yaml lists.
        self.exits = {
            tower: tuple(segment.last for segment in bundle.manifest.segments(tower)) for tower in ("vision", "decoder")
        }
        random = np.random.default_rng(0)
        self._pixels: NDArray[np.float32] = random.standard_normal(
            (1, 3, self.model.image_size, self.model.image_size), np.float32
        )
        self._token_ids: list[int] = random.integers(self.model.vocabulary, size=self.model.kv_capacity).tolist()
        embeddings = (1, self.model.image_tokens, self.model.decoder_width)
        self._seen = self.watch.allocate(embeddings, bundle.manifest.embedding.outputs[0].dtype)
        self._evicted = np.zeros(_EVICTED_BYTES, np.uint8)

    def cells(self, prompt_tokens: Sequence[int]) -> list[Cell]:
        """Everything to measure; the depths of a phase side by side, so that drift hits them alike."""
        vision, decoder = ((None, *self.exits[tower]) for tower in ("vision", "decoder"))
        cells = [Cell("vision", self.model.vision_tokens, exit) for exit in vision]
        cells += [Cell("prefill", count, exit) for count in prompt_tokens for exit in decoder]
        return cells + [Cell("decode", 1, exit) for exit in decoder]

    def warm(self, cell: Cell) -> Measured:
        """Measure a cell in the middle of other work; a token is preceded by one of the same depth, as in an answer."""
        if cell.phase == "decode":
            self._run(cell)
        return self._measure(cell)

    def cold(self, cell: Cell, pause_ms: float) -> Measured:
        """Measure a cell after overwriting memory and then `pause_ms` of idleness."""
        self._evicted += 1
        time.sleep(pause_ms / 1e3)
        return self._measure(cell)

    def _measure(self, cell: Cell) -> Measured:
        if cell.exit is None:
            return self._measure_engines(cell)
        started_ms = self.watch.now_ms()
        self._run(cell)
        return [((cell.phase, "exit", "", cell.exit, cell.tokens), self.watch.now_ms() - started_ms)]

    def _measure_engines(self, cell: Cell) -> Measured:
        laps: list[tuple[Engine, float]] = []
        self.watch.laps = laps
        try:
            self._run(cell)
        finally:
            self.watch.laps = None
        return [
            ((cell.phase, "engine", engine.name, engine.last, cell.tokens), lap)
            for engine, lap in laps
            # The decoder's head gets one token in either phase: its rows are those of the decode phase.
            if (cell.phase, engine.tower, engine.role) != ("prefill", "decoder", "head")
        ]

    def _run(self, cell: Cell) -> None:
        exit = cell.exit or self.exits["vision" if cell.phase == "vision" else "decoder"][-1]
        if cell.phase == "vision":
            self.chain.see(self._pixels, exit, self._seen)
            self.watch.wait()
        elif cell.phase == "prefill":
            self.chain.prefill(self._token_ids[: cell.tokens], exit)
        else:
            # Attention looks at the whole cache under a mask, so the position makes no difference to the time.
            self.chain.step(self._token_ids[0], self.model.kv_capacity - 1, exit)
