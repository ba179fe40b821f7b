"""Parity: every segment, and every whole depth, against PyTorch.

The reference is `transformers` on the checkpoint that the bundle was exported from, with its towers cut at the exits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engine_builder.reference import Reference, drawn_picture
from jetson_runtime.backends import Backend, Buffer, open_backend
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.chain import Chain
from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json
from jetson_runtime.image import open_image
from jetson_runtime.manifest import Engine

__all__ = ["BOUNDS", "Comparison", "add_check", "check"]

# Relative distance of the worst token. fp16 carries 11 bits, and a deep chain adds its roundings up.
BOUNDS: Mapping[str, float] = {"fp32": 1e-4, "fp16": 3e-2}
QUESTIONS = ("What is in this picture? Describe it in two sentences.", "Tell me how a car engine works.")


@dataclass(frozen=True)
class Comparison:
    """One thing compared; `same_tokens` of `tokens` greedy tokens agree from the first on (None for segments)."""

    name: str
    error: float
    bound: float
    same_tokens: int | None = None
    tokens: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the error is within its bound and no token differs."""
        return self.error <= self.bound and self.same_tokens == self.tokens


def add_check(commands: Commands) -> None:
    """Add `engine-build check`."""
    parser = subcommand(
        commands,
        "check",
        "compare every segment and every depth of a portable bundle with PyTorch",
        _command,
        examples="  engine-build check build/demo/bundle build/reference\n"
        "  engine-build check build/demo/bundle build/reference --image demo/sign.png --tokens 32 --json",
    )
    parser.add_argument("bundle", type=Path, help="a portable bundle")
    parser.add_argument("checkpoint", type=Path, help="the checkpoint it was exported from")
    parser.add_argument("--image", type=Path, help="a picture to ask about (default: a drawn one)")
    parser.add_argument("--tokens", type=int, default=64, help="greedy tokens to compare per depth (default 64)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _command(arguments: argparse.Namespace) -> int:
    if arguments.tokens < 1:
        raise ConfigError("--tokens can't be used", found=arguments.tokens, expected="1 or more")
    image = arguments.image.read_bytes() if arguments.image and open_image(arguments.image) else drawn_picture()
    results = list(check(open_bundle(arguments.bundle), arguments.checkpoint, image=image, tokens=arguments.tokens))
    holds = all(result.holds for result in results)
    if arguments.json:
        rows = [{**asdict(result), "holds": result.holds} for result in results]
        sys.stdout.write(canonical_json({"schema": "holdfast/check/1", "holds": holds, "comparisons": rows}))
    else:
        for result in results:
            tokens = "" if result.tokens is None else f"   {result.same_tokens} of {result.tokens} tokens the same"
            verdict = "ok  " if result.holds else "FAIL"
            print(f"{verdict} {result.name:<28} error {result.error:.1e} (bound {result.bound:.0e}){tokens}")
    return 0 if holds else 1


def check(
    bundle: Bundle, checkpoint: Path, *, image: bytes, tokens: int = 64, questions: tuple[str, str] = QUESTIONS
) -> Iterator[Comparison]:
    """Compare each segment on PyTorch's own inputs, then each depth from question to answer.

    The first question comes with the image, the second without.

    Raises:
        CheckpointError: the checkpoint is not there or not the one of the bundle's sizes. MissingExtraError: no torch.
    """
    reference = Reference(checkpoint)
    backend = open_backend("onnxruntime", bundle, None, None)
    bound = BOUNDS[bundle.manifest.precision]
    inputs = reference.trace(questions[0], image, capacity=bundle.manifest.model.kv_capacity)
    segments = [*bundle.manifest.segments("vision"), *bundle.manifest.segments("decoder")]
    for segment in tqdm(segments, desc="check segments", unit="segment", disable=None):
        run = _run_vision if segment.tower == "vision" else _run_decoder
        expected = inputs[segment.tower][segment.last]
        yield Comparison(segment.name, _error(run(bundle, backend, segment, inputs), expected), bound)
    chain, prompter, preprocess = Chain(bundle, backend), bundle.prompter(), bundle.preprocessing()
    for depth in tqdm(list(bundle.manifest.ladder), desc="check depths", unit="depth", disable=None):
        for question, picture in zip(questions, (image, None), strict=True):
            prompt = prompter(question, with_image=picture is not None)
            pixels = None if picture is None else preprocess(open_image(picture))
            limit = min(tokens, bundle.manifest.model.kv_capacity - len(prompt.token_ids) + 1)
            reference_logits, reference_tokens = reference.answer(depth, question, picture, limit)
            logits = chain.prefill(
                prompt.token_ids,
                depth.decoder,
                pixels=pixels,
                image_at=prompt.image_at,
                vision_exit=depth.vision,
            )
            error, answer = _error(logits, reference_logits), [int(logits.argmax())]
            while len(answer) < len(reference_tokens) and answer[-1] == reference_tokens[len(answer) - 1]:
                logits = chain.step(answer[-1], len(prompt.token_ids) + len(answer) - 1, depth.decoder)
                answer.append(int(logits.argmax()))
            same = sum(ours == theirs for ours, theirs in zip(answer, reference_tokens, strict=False))
            kind = "text" if picture is None else "image"
            yield Comparison(f"{depth}, {kind}", error, bound, same, len(reference_tokens))


def _error(value: np.ndarray, expected: np.ndarray) -> float:
    """The worst token's relative distance; token by token, because a few tokens' huge values would hide the others."""
    if value.shape != expected.shape:
        return float("inf")
    distance = np.linalg.norm(value.astype(np.float64) - expected, axis=-1)
    return float((distance / np.linalg.norm(expected.astype(np.float64), axis=-1)).max())


def _run_vision(bundle: Bundle, backend: Backend, segment: Engine, inputs: Mapping[str, Any]) -> np.ndarray:
    source = inputs["pixels"] if segment.first == 1 else inputs["vision"][segment.first - 1]
    return _run(backend, segment, {segment.inputs[0].name: source}, source.shape[1])


def _run_decoder(bundle: Bundle, backend: Backend, segment: Engine, inputs: Mapping[str, Any]) -> np.ndarray:
    """All tokens but the last as a prompt, the last one as a step over the cache: both halves of a segment's life."""
    source, capacity = inputs["decoder"][segment.first - 1], bundle.manifest.model.kv_capacity
    split, total = source.shape[1] - 1, source.shape[1]
    mask = np.tri(capacity, dtype=bool)[None, None]
    caches: dict[str, Buffer] = {}
    parts = []
    for start, stop in ((0, split), (split, total)):
        values = {
            "hidden": source[:, start:stop],
            "positions": np.arange(start, stop)[None],
            "mask": mask[:, :, start:stop],
            "write_index": np.array([start]),
        }
        parts.append(_run(backend, segment, values, stop - start, caches))
    return np.concatenate(parts, axis=1)


def _run(
    backend: Backend,
    segment: Engine,
    values: Mapping[str, np.ndarray],
    count: int,
    caches: dict[str, Buffer] | None = None,
) -> np.ndarray:
    """Run one segment on `values` and return its features; `caches` keeps the KV cache between two runs."""
    caches = {} if caches is None else caches
    inputs, outputs = {}, {}
    for spec in segment.inputs:
        shape = tuple(count if isinstance(size, str) else size for size in spec.shape)
        if spec.name in values:
            inputs[spec.name] = backend.allocate(shape, spec.dtype)
            inputs[spec.name].write(values[spec.name])
        else:
            key = spec.name.removeprefix("past_")
            inputs[spec.name] = caches.setdefault(key, backend.allocate(shape, spec.dtype))
            outputs[f"present_{key}"] = caches[key]
    features = segment.outputs[0]
    shape = tuple(count if isinstance(size, str) else size for size in features.shape)
    outputs[features.name] = backend.allocate(shape, features.dtype)
    backend.enqueue(backend.load(segment), inputs, outputs)
    backend.wait()
    return outputs[features.name].read()
