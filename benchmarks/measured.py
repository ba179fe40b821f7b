"""Measurements of checkpoints at their exits: `realign measure` into a folder that is kept, gone on with and reused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.exits import Depths
from benchmarks.workspace import demo_ladder, measured_root, quietly, stage
from jetson_runtime.files import canonical_json, read_json, sha256_file
from realignment.measure import MAX_TOKENS, Depth
from realignment.measure_command import REPORT
from refusal_suite.judge import JUDGE
from refusal_suite.prompts import BUILTIN, load_prompts

__all__ = [
    "QUESTIONS",
    "Measurement",
    "exits_of",
    "kinds",
    "measured",
    "measurement",
    "place",
    "weights",
]

QUESTIONS = 960
_SEED = 0


@dataclass(frozen=True)
class Measurement:
    """The results at the depths asked for, and which of them is full depth."""

    depths: Depths
    full: Depth


@cache
def measured(name: str) -> Measurement:
    """A stage of the reference on holdfast-1 , each with a picture, with visual questions.

    At every vision exit under the whole decoder, at the demo's ladder, and at full depth. Computed once: what is there
    already, for the same weights, prompts, judge and settings, is used.
    """
    checkpoint = stage(name)
    wanted = exits_of(checkpoint)
    ladder = [(depth.vision, depth.decoder) for depth in demo_ladder().depths]
    depths = list(dict.fromkeys([*((vision, wanted[1][-1]) for vision in wanted[0]), *ladder]))
    return measurement(checkpoint, place(name, checkpoint, QUESTIONS, None), depths, questions=QUESTIONS)


def measurement(
    checkpoint: Path, folder: Path, depths: Sequence[Depth] | None, *, questions: int = 0, limit: int | None = None
) -> Measurement:
    """`realign measure` of `checkpoint` into `folder`, begun or gone on with; without `depths`, at every exit.

    Raises:
        HoldfastError: `folder` holds another measurement, or the checkpoint can't be measured.
    """
    options: list[object] = ["--out", folder, "--resume", "--questions", questions, "--seed", _SEED]
    if depths is not None:
        options += ["--depths", ",".join(f"{vision}:{decoder}" for vision, decoder in depths)]
    if limit is not None:
        options += ["--limit", limit]
    quietly("measure", checkpoint, *options)
    report = read_json(folder / REPORT)
    found = {(depth["vision"], depth["decoder"]): depth for depth in report["depths"]}
    full = report["full_depth"]["vision"], report["full_depth"]["decoder"]
    return Measurement(found if depths is None else {depth: found[depth] for depth in depths}, full)


def place(name: str, checkpoint: Path, questions: int, limit: int | None) -> Path:
    """The folder of a measurement: another one for other weights, prompts, rules or settings."""
    settings = [sha256_file(BUILTIN), JUDGE, MAX_TOKENS, questions, limit, _SEED]
    digest = hashlib.sha256(canonical_json(settings).encode()).hexdigest()
    return measured_root() / f"{name}-{weights(checkpoint)[:12]}-{digest[:8]}"


def exits_of(checkpoint: Path) -> tuple[range, range]:
    """All exits of the vision tower and of the decoder, as its config.json says."""
    config = read_json(checkpoint / "config.json")
    vision, decoder = (config[tower]["num_hidden_layers"] for tower in ("vision_config", "text_config"))
    return range(1, vision + 1), range(1, decoder + 1)


def weights(checkpoint: Path) -> str:
    """The digest of a checkpoint's weights."""
    return sha256_file(checkpoint / "model.safetensors")


@cache
def kinds() -> dict[str, str]:
    """Whether a prompt of holdfast-1 is harmful or benign, by id."""
    return {prompt.id: prompt.kind for prompt in load_prompts().prompts}
