"""The recipe of a projector training: a YAML file, checked before anything is computed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json
from realignment.assemble import IMAGE_TOKENS

__all__ = ["PROJECTOR_RECIPE", "STAGES", "Asking", "Recipe", "Steps", "learning_rate", "read_recipe"]

PROJECTOR_RECIPE = Path(__file__).parent / "recipes" / "projector.yaml"


@dataclass(frozen=True)
class Steps:
    """`steps` steps of `pictures` pictures, each with one of the counts `image_tokens` of its image tokens.

    Held-out pictures are asked about every `measure_every` steps and at the end.
    """

    steps: int
    pictures: int
    image_tokens: tuple[int, ...]
    learning_rate: float
    warmup_steps: int
    measure_every: int


@dataclass(frozen=True)
class Asking(Steps):
    """Steps that ask at most `questions` questions about each picture."""

    questions: int


@dataclass(frozen=True)
class Recipe:
    """How the projector is trained; recipes/projector.yaml says what each entry is for."""

    seed: int
    vision_exit: int
    train_pictures: int
    held_out_pictures: int
    variant_every: int
    whitening_floor: float
    text_rms: float
    max_minutes: float
    save_minutes: float
    words: Asking
    long_words: Asking
    regression: Steps
    tuning: Asking
    retuning: Asking
    sha256: str


STAGES: dict[str, type[Steps]] = {
    "words": Asking,
    "long_words": Asking,
    "regression": Steps,
    "tuning": Asking,
    "retuning": Asking,
}
"""The stages of a recipe, in their order."""


def learning_rate(plan: Steps, step: int) -> float:
    """The rate of `step` (counted from 0): linear warm-up times a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    return plan.learning_rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / plan.steps)) / 2)


def read_recipe(file: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        ConfigError: it can't be read, or an entry is missing, unknown, of the wrong type or out of range.
    """
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} can't be read", found=error.strerror, remedy="check the path") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is not YAML", found=error) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file} is not a projector recipe", found=type(value).__name__, expected="a mapping")
    digest = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    parts = {name: _checked(kind, value[name], f"{file}, {name}") for name, kind in STAGES.items() if name in value}
    recipe: Recipe = _checked(Recipe, {**value, **parts, "sha256": digest}, str(file))
    return recipe


def _checked(kind: type[Any], value: object, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is not a mapping", found=value)
    wanted = {field.name: str(field.type) for field in fields(kind)}
    if set(value) != set(wanted):
        odd = ", ".join(sorted(str(name) for name in set(value) ^ set(wanted)))
        raise ConfigError(f"{where}: missing or unknown entries", found=odd, expected=", ".join(wanted))
    return kind(**{name: _entry(value[name], text, f"{where}: {name}") for name, text in wanted.items()})


def _entry(value: Any, kind: str, where: str) -> Any:
    expected: str | None = None
    if kind == "int" and (type(value) is not int or value < 0):
        expected = "a whole number"
    elif kind == "float" and (type(value) not in (int, float) or not value >= 0):
        expected = "a number, 0 or more"
    elif kind == "tuple[int, ...]":
        counts = value if isinstance(value, list) else []
        if not counts or not all(type(count) is int and 1 <= count <= IMAGE_TOKENS for count in counts):
            expected = f"a list of whole numbers, 1 to {IMAGE_TOKENS}"
        value = tuple(counts)
    if where.rsplit(" ", 1)[1] in ("steps", "pictures", "questions", "measure_every") and not value:
        expected = "a whole number, 1 or more"
    if expected:
        raise ConfigError(f"{where} is wrong", found=value, expected=expected)
    return value
