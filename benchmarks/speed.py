"""Claims about speed, each a ratio of two things measured in turns in one run."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.claims import Measured, claim
from benchmarks.workspace import EXITS, bundle, checkpoint, picture
from calibration.latency import Settings
from calibration.latency import measure as calibrate
from jetson_runtime import Request, Runtime, load
from jetson_runtime.profile import LatencyProfile

PROMPT = "Tell me how a car engine works."
TOKENS = 48
ROUNDS = 7
LOADS = 4


@claim("end-to-end.chain-speed", "decode speed of a chain of 3 decoder segments / of one segment", "ratio", ">=", 0.95)
def chain_speed() -> Measured:
    """The same full depth both times, in turns. Loaded afresh in either order: who comes second gets faster memory."""
    paths = {"three segments": bundle(EXITS).path, "one segment": bundle(EXITS[2:]).path}
    speeds: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(LOADS):
        order = sorted(paths, reverse=number % 2 == 1)
        with ExitStack() as stack:
            loaded = {name: stack.enter_context(load(paths[name], allow_unadmitted=True)) for name in order}
            for name, values in _in_turns({name: _decoder(runtime) for name, runtime in loaded.items()}).items():
                speeds[name] += values
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return Measured(medians["three segments"] / medians["one segment"], {"tokens_per_s": medians, "runs": speeds})


@claim("end-to-end.speed-vs-transformers", "decode speed at full depth / transformers greedy fp32", "ratio", ">=", 2)
def speed_vs_transformers() -> Measured:
    """The same tokens, the same machine and number of threads, taken in turns."""
    import torch

    from engine_builder.reference import Reference

    reference = Reference(checkpoint())
    inputs = reference.inputs(PROMPT, None)
    limits: dict[str, Any] = {"do_sample": False, "eos_token_id": None}

    def transformers() -> float:
        times = []
        with torch.inference_mode():
            for count in (1, TOKENS + 1):
                start = time.perf_counter()
                reference.model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, **limits)
                times.append(time.perf_counter() - start)
        return TOKENS / (times[1] - times[0])

    made = bundle(EXITS)
    with load(made.path, allow_unadmitted=True) as runtime:
        runs = _in_turns({"holdfast": _decoder(runtime), "transformers": transformers})
    speeds = {name: statistics.median(values) for name, values in runs.items()}
    weights = [record.size_bytes for path, record in made.manifest.files.items() if _read_per_token(path)]
    bandwidth = _read_bytes_per_s()
    details = {
        "tokens_per_s": speeds,
        "bytes_read_per_token": sum(weights),
        "memory_read_gb_per_s": bandwidth / 1e9,
        "tokens_per_s_if_reading_took_all_the_time": bandwidth / sum(weights),
    }
    return Measured(speeds["holdfast"] / speeds["transformers"], details)


def _read_per_token(path: str) -> bool:
    return path.endswith(".weights") and path.split("/")[-1].startswith(("decoder", "token_table"))


def _read_bytes_per_s() -> float:
    """How fast two threads read half a gigabyte of memory, best of ten: what no decoder in this precision can beat."""
    values = np.ones(540_000_000 // 4, np.float32)
    best = 0.0
    for _ in range(10):
        halves = [threading.Thread(target=np.dot, args=(half, half)) for half in np.array_split(values, 2)]
        start = time.perf_counter()
        for thread in halves:
            thread.start()
        for thread in halves:
            thread.join()
        best = max(best, values.nbytes / (time.perf_counter() - start))
    return best


@claim(
    "end-to-end.shallower-is-faster",
    "smallest (deeper / next shallower) of first-token and per-token times",
    "ratio",
    ">",
    1,
)
def shallower_is_faster() -> Measured:
    """In the profile (medians) and end to end (the runtime's own answers)."""
    made = bundle(EXITS)
    profile = calibrate(made, Settings())
    details: dict[str, dict[str, float]] = {}
    with load(made.path, allow_unadmitted=True) as runtime:
        rounds = [[_times(runtime, depth.name) for depth in made.manifest.ladder] for _ in range(ROUNDS)]
    for index, depth in enumerate(made.manifest.ladder):
        first, step = (statistics.median(row[index][part] for row in rounds) for part in (0, 1))
        details[depth.name] = {
            "end_to_end_first_token_ms": first,
            "end_to_end_per_token_ms": step,
            "profile_first_token_ms": _median(profile, "vision", depth.vision)
            + _median(profile, "prefill", depth.decoder),
            "profile_per_token_ms": _median(profile, "decode", depth.decoder),
        }
    rows = list(details.values())
    ratios = [deep[key] / low[key] for low, deep in itertools.pairwise(rows) for key in low]
    return Measured(min(ratios), details)


def _median(profile: LatencyProfile, phase: str, layer: int) -> float:
    rows = [
        row for row in profile.rows if (row.scope, row.phase, row.layer, row.state) == ("exit", phase, layer, "warm")
    ]
    return max(rows, key=lambda row: row.tokens).p50_ms


def _times(runtime: Runtime, depth: str) -> tuple[float, float]:
    """(time to the first token of an answer about a picture, time per further token of a long answer) in ms."""
    seen = runtime.invoke(Request(PROMPT, image=picture(), max_tokens=1, depth=depth))
    told = runtime.invoke(Request(PROMPT, max_tokens=TOKENS, depth=depth))
    return seen.tokens[0].at_ms, (told.tokens[-1].at_ms - told.tokens[0].at_ms) / (len(told.tokens) - 1)


def _decoder(runtime: Runtime) -> Callable[[], float]:
    """A function that decodes `TOKENS` tokens at full depth and returns tokens per second."""
    chain, depth = runtime.chain, runtime.bundle.manifest.ladder.full
    prompt = runtime.bundle.prompter()(PROMPT, with_image=False)

    def decode() -> float:
        logits = chain.prefill(prompt.token_ids, depth.decoder)
        start = time.perf_counter()
        for position in range(len(prompt.token_ids), len(prompt.token_ids) + TOKENS):
            logits = chain.step(int(logits.argmax()), position, depth.decoder)
        return TOKENS / (time.perf_counter() - start)

    return decode


def _in_turns(contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The speeds of each, after one round that does not count."""
    for run in contenders.values():
        run()
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            speeds[name].append(run())
    return speeds
