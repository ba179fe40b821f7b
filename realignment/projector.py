"""`realign projector`: from pinned packages and a recipe to projector.safetensors and its record."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jetson_runtime.console import require
from jetson_runtime.errors import StorageError
from jetson_runtime.files import sha256_file, storage_errors, write_json
from realignment.assemble import IMAGE_TOKENS, PROJECTOR_SHAPES, write_checkpoint
from realignment.curve import Curve
from realignment.decoder import IMAGE_TOKEN_ID
from realignment.easy_vqa import KINDS, read_questions
from realignment.features import training_features
from realignment.packages import DINOV2, EASY_VQA, SMOLLM2, fetch
from realignment.packing import Prompts
from realignment.recipe import STAGES, Recipe, Steps
from realignment.stages import Material, Regression, Stage, Tuning, Words
from realignment.tensors import save_tensors
from realignment.training import CURVE, Training
from realignment.vision import VISION_CONFIG
from realignment.visual_questions import accuracy_by_exit
from realignment.whitening import fit_whitening, fold
from realignment.words import SoftWords, known_words

__all__ = ["TEST_QUESTIONS", "initial_projector", "load_checkpoint", "train_projector"]

TEST_QUESTIONS = 480
_EXITS = range(1, VISION_CONFIG["num_hidden_layers"] + 1)
_GELU_RMS = 0.652  # root mean square of gelu(z), z standard normal


def initial_projector(seed: int, text_rms: float) -> dict[str, Any]:
    """Random weights that turn features of unit variance into outputs of root mean square `text_rms`."""
    torch = require("torch", "realign")
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in PROJECTOR_SHAPES.items():
        gain = 1.0 if name.startswith("linear_1") else text_rms / _GELU_RMS
        spread = gain / math.sqrt(shape[-1]) if len(shape) == 2 else 0.0
        tensors[name] = torch.randn(shape, generator=generator) * spread
    return tensors


def load_checkpoint(folder: Path) -> tuple[Any, Any]:
    """Model (float32, frozen) and processor of a LLaVA directory, on all the cores that this process may use."""
    torch, transformers = require("torch", "realign"), require("transformers", "realign")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.utils.logging.disable_progress_bar()
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.requires_grad_(False).eval(), transformers.AutoProcessor.from_pretrained(folder)


def train_projector(recipe: Recipe, out: Path, cache: Path, *, resume: bool) -> dict[str, Any]:
    """Train, measure every exit, and write projector.safetensors, projector.json and curve.csv to `out`.

    Returns the record that is in projector.json.

    Raises:
        CheckpointError: a package is not the pinned one, or the saved state belongs to another recipe.
        StorageError: `out` holds a training and `resume` is False, or can't be written.
    """
    out = out.absolute()
    if (out / CURVE).exists() and not resume:
        raise StorageError(
            f"{out} holds a training", expected="a new place", remedy="add --resume to go on with it, or choose another"
        )
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    material, processor, data = _material(recipe, out, cache)
    model, training = material.model, Training(recipe, out, KINDS)
    words = SoftWords(model, processor.tokenizer)
    projector = model.model.multi_modal_projector.requires_grad_(True)
    stages: tuple[Stage, ...] = (
        Words(material, words, long=False),
        Words(material, words, long=True),
        Regression(material, words, projector),
        Tuning(material, projector, again=False),
        Tuning(material, projector, again=True),
    )
    done = {stage.name: training.run(stage) for stage in stages}
    file = out / "projector.safetensors"
    shipped = _write_projector(fold(projector.state_dict(), material.whitening), file)
    projector.load_state_dict(shipped)
    accuracy = accuracy_by_exit(model, processor, data, questions=TEST_QUESTIONS, seed=recipe.seed, exits=_EXITS)
    record = {**_record(recipe, out, training, done), "accuracy": accuracy, "sha256": sha256_file(file)}
    write_json(out / "projector.json", record)
    return record


def _material(recipe: Recipe, out: Path, cache: Path) -> tuple[Material, Any, Path]:
    """Model with the projector that training starts from, features, questions; the processor; easy-VQA's folder."""
    torch = require("torch", "realign")
    data, start = fetch(EASY_VQA, cache), out / "start"
    if not start.exists():
        write_checkpoint(start, cache, initial_projector(recipe.seed, recipe.text_rms), {"trained": False})
    model, processor = load_checkpoint(start)
    questions = read_questions(data, "train")
    features = training_features(
        out / "features.npy",
        model,
        processor,
        data,
        count=recipe.train_pictures + recipe.held_out_pictures,
        layer=recipe.vision_exit,
        every=recipe.variant_every,
        seed=recipe.seed,
    )
    rows = features[: recipe.train_pictures : max(1, recipe.train_pictures // 512), ::4].astype(np.float32)
    whitening = fit_whitening(torch.from_numpy(rows.reshape(-1, rows.shape[-1])), recipe.whitening_floor)
    known = {number: pair for number, asked in enumerate(questions) if (pair := known_words(asked))}
    prompts = Prompts(processor, IMAGE_TOKEN_ID, IMAGE_TOKENS)
    return Material(recipe, model, prompts, features, whitening, questions, known), processor, data


def _write_projector(tensors: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Write the projector as float16, the checkpoint's type; returns what was written, as float32."""
    torch = require("torch", "realign")
    halves = {name: value.detach().to(torch.float16).contiguous() for name, value in tensors.items()}
    save_tensors(file, halves, {})
    return {name: value.float() for name, value in halves.items()}


def _record(recipe: Recipe, out: Path, training: Training, done: Mapping[str, int]) -> dict[str, Any]:
    torch, transformers = require("torch", "realign"), require("transformers", "realign")
    plans: dict[str, Steps] = {name: getattr(recipe, name) for name in STAGES}
    rows = Curve(out / CURVE, ()).rows()
    measured = [row for row in rows if row[f"held-out {KINDS[0]}"]]
    stages = {}
    for name, plan in plans.items():
        losses = [float(row["loss"]) for row in rows if row["stage"] == name]
        last = losses[-20:]
        stages[name] = {
            "loss_first": losses[0] if losses else None,
            "loss_last_20": round(sum(last) / len(last), 4) if last else None,
            "steps": done[name],
            "steps_planned": plan.steps,
        }
    return {
        "command": "realign projector --recipe projector.yaml --out DIR",
        "complete": all(done[name] == plan.steps for name, plan in plans.items()),
        "held_out": {kind: float(measured[-1][f"held-out {kind}"]) for kind in KINDS} if measured else {},
        "minutes": round(training.minutes, 1),
        "packages": {
            part: {"package": f"{package.name}=={package.version}", "payload_sha256": package.payload_sha256}
            for part, package in (("data", EASY_VQA), ("decoder", SMOLLM2), ("vision", DINOV2))
        },
        "recipe": asdict(recipe),
        "stages": stages,
        "threads": torch.get_num_threads(),
        "tools": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "trained": True,
    }
