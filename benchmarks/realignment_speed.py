"""Claims about the speed of L-PPO beside TRL's GRPO, which a user would otherwise pick: same model, machine, batch."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims import ROOT, Measured, claim
from benchmarks.workspace import checkpoint, picture
from jetson_runtime.errors import HoldfastError

TRL = "1.16.0"
# Text alone, with TRL's trainer for language models: 16 requests, each asked twice, for us two of the recipe's groups.
# Two epochs, as in the recipe: with one, TRL skips the old policy's pass.
EPOCHS = 2
TEXT = ("--groups", "2", "--prompts", "16", "--rounds", "4", "--epochs", str(EPOCHS))
# One picture, 4 requests, each asked twice: TRL's batch carries the picture's 256 tokens in every row.
SEEN = ("--groups", "1", "--prompts", "8", "--rounds", "2", "--epochs", str(EPOCHS))
_SAME = "same decoder (fp32), LoRA rank and targets, requests, batch, sampling limits and threads"


@claim("realignment.rollout-speed", "tokens per second of rollout, L-PPO / TRL's GRPO, text alone", "ratio", ">=", 1)
def rollout_speed() -> Measured:
    """From the prompts' tokens to the answers' tokens, stop tokens included, padding after them not counted."""
    return _measured("rollout_tokens_per_s")


@claim(
    "realignment.update-speed",
    "samples per second of update, reference included, L-PPO / TRL's GRPO, text alone",
    "ratio",
    ">=",
    1,
)
def update_speed() -> Measured:
    """All of an iteration but the rollout: rewards, old policy and reference, loss, backward pass, optimizer."""
    return _measured("update_samples_per_s")


def _measured(speed: str) -> Measured:
    found = _all()
    ours, theirs = (found["text alone"][name][speed] for name in ("holdfast", "trl"))
    return Measured(ours / theirs, found)


@functools.cache
def _all() -> dict[str, Any]:
    """Both claims come from one run, where both are measured."""
    text = _turns(*TEXT)
    try:
        seen = _speeds(_turns(*SEEN, "--picture", str(picture())))
    except HoldfastError as error:
        # TRL's support for vision-language models is its own matter; what it raised is the answer then.
        seen = {"not measured": str(error)}
    return {
        "same for both": _SAME,
        "text alone": _speeds(text),
        "with a picture": seen,
        "threads": text["threads"],
        "trl_settings": text["trl"],
        "versions": text["versions"],
    }


def _speeds(found: Mapping[str, Any]) -> dict[str, Any]:
    """Medians over the turns of both, and every turn."""
    result: dict[str, Any] = {}
    for name, turns in found["turns"].items():
        result[name] = {
            "rollout_tokens_per_s": statistics.median(turn["tokens"] / turn["rollout_s"] for turn in turns),
            "update_samples_per_s": statistics.median(EPOCHS * turn["answers"] / turn["update_s"] for turn in turns),
            "tokens_per_answer": sum(turn["tokens"] for turn in turns) / sum(turn["answers"] for turn in turns),
            "turns": turns,
        }
    ours, theirs = result["holdfast"], result["trl"]
    result |= {f"{key} ratio": ours[key] / theirs[key] for key in ("rollout_tokens_per_s", "update_samples_per_s")}
    if found["picture_features_s"]:
        # Ours, once per picture and exit before the training; TRL's is inside its turns, row by row.
        result["picture_features_once_s"] = found["picture_features_s"]
    return result


def _turns(*options: str) -> dict[str, Any]:
    """One run of `trl_turns`, in a process of its own: TRL and accelerate set up state for the whole process.

    Raises:
        HoldfastError: TRL is not installed, or the run failed.
    """
    if importlib.util.find_spec("trl") is None:
        raise HoldfastError(
            "TRL is not installed, which L-PPO's speed is measured beside",
            expected=f"the package trl, version {TRL}",
            remedy=f"pip install trl=={TRL}",
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "turns.json"
        command = [sys.executable, "-m", "benchmarks.trl_turns", str(checkpoint().resolve()), str(out), *options]
        # No telemetry, no look-ups.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["nothing on standard error"]
            raise HoldfastError("the run beside TRL failed", found=f"exit code {done.returncode}: {last[0]}")
        found: dict[str, Any] = json.loads(out.read_text())
    return found
