"""Recipes of trainings: YAML files, checked before anything is computed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import yaml

from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json
from realignment.assemble import IMAGE_TOKENS

__all__ = [
    "PROJECTOR_RECIPE",
    "STAGES",
    "Asking",
    "Exits",
    "Measured",
    "Mixture",
    "Recipe",
    "Schedule",
    "Steps",
    "checked",
    "learning_rate",
    "read_mapping",
    "read_recipe",
    "section_digest",
]

PROJECTOR_RECIPE = Path(__file__).parent / "recipes" / "projector.yaml"

_POSITIVE = (
    *("steps", "pictures", "questions", "measure_every", "rank", "rows", "prompts"),
    *("exits_per_step", "max_new_tokens", "groups", "groups_per_step", "epochs"),
)


class Schedule(Protocol):
    """What a learning rate depends on."""

    @property
    def steps(self) -> int:
        """How many steps there are."""

    @property
    def learning_rate(self) -> float:
        """The highest rate."""

    @property
    def warmup_steps(self) -> int:
        """Steps until it is reached."""


class Measured(Schedule, Protocol):
    """A schedule with measurements on the way."""

    @property
    def measure_every(self) -> int:
        """Held-out data are measured every so many steps, and at the end."""


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
class Mixture:
    """Steps of supervised lessons: `rows` sequences of `prompts` requests each.

    A step is about pictures with probability `image_share`, and then keeps one of the counts `image_tokens` of their
    tokens (at most all). Of its requests a share `visual_share` are questions about the picture, where it has that
    many; of the others `harmful_share` are harmful. `rank` is LoRA's; `max_new_tokens` bounds the answers that the
    checkpoint itself gives as examples.
    """

    steps: int
    rank: int
    rows: int
    prompts: int
    image_tokens: tuple[int, ...]
    image_share: float
    harmful_share: float
    visual_share: float
    twin_share: float
    opening_weight: float
    max_new_tokens: int
    learning_rate: float
    warmup_steps: int
    measure_every: int


@dataclass(frozen=True)
class Exits(Mixture):
    """Lessons at decoder `exits`, of which each step draws `exits_per_step`; `scale` weighs them against full depth."""

    exits: tuple[int, ...]
    exits_per_step: int
    scale: float


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


def learning_rate(plan: Schedule, step: int) -> float:
    """The rate of `step` (counted from 0): linear warm-up times a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    return plan.learning_rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / plan.steps)) / 2)


def read_mapping(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it can't be read, or is something else.
    """
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} can't be read", found=error.strerror, remedy="check the path") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is not YAML", found=error) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file} is not a recipe", found=type(value).__name__, expected="a mapping")
    return value


def read_recipe(file: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        ConfigError: it can't be read, or an entry is missing, unknown, of the wrong type or out of range.
    """
    value = read_mapping(file)
    digest = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    parts = {name: checked(kind, value[name], f"{file}, {name}") for name, kind in STAGES.items() if name in value}
    for name, part in parts.items():
        if max(part.image_tokens) > IMAGE_TOKENS:
            raise ConfigError(
                f"{file}, {name}: image_tokens is wrong",
                found=part.image_tokens,
                expected=f"counts up to {IMAGE_TOKENS}",
            )
    recipe: Recipe = checked(Recipe, {**value, **parts, "sha256": digest}, str(file))
    return recipe


def section_digest(*parts: Mapping[str, Any]) -> str:
    """The digest of a recipe's parts: a saved state belongs to the parts that it was trained by."""
    return hashlib.sha256(canonical_json(list(parts)).encode()).hexdigest()


def checked(kind: type[Any], value: object, where: str) -> Any:
    """The frozen dataclass `kind` made of the mapping `value`; `where` names the place in messages.

    Raises:
        ConfigError: an entry is missing, unknown, of the wrong type or out of range.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is not a mapping", found=value)
    wanted = {field.name: str(field.type) for field in fields(kind)}
    if set(value) != set(wanted):
        odd = ", ".join(sorted(str(name) for name in set(value) ^ set(wanted)))
        raise ConfigError(f"{where}: missing or unknown entries", found=odd, expected=", ".join(wanted))
    return kind(**{name: _entry(value[name], text, f"{where}: {name}") for name, text in wanted.items()})


def _entry(value: Any, kind: str, where: str) -> Any:
    expected: str | None = None
    name = where.rsplit(" ", 1)[1]
    if kind == "int" and (type(value) is not int or value < 0):
        expected = "a whole number"
    elif kind == "bool" and type(value) is not bool:
        expected = "true or false"
    elif kind == "float" and (type(value) not in (int, float) or not 0 <= value < math.inf):
        expected = "a number, 0 or more"
    elif name.endswith("_share") and value > 1:
        expected = "a share, 0 to 1"
    elif kind == "tuple[int, ...]":
        counts = value if isinstance(value, list) else []
        if not counts or not all(type(count) is int and count >= 1 for count in counts):
            expected = "a list of whole numbers, 1 or more"
        value = tuple(counts)
    elif kind == "tuple[float, ...]":
        shares = value if isinstance(value, list) else []
        if not shares or not all(type(share) in (int, float) and 0 <= share <= 1 for share in shares):
            expected = "a list of shares, 0 to 1"
        value = tuple(shares)
    if name in _POSITIVE and not value:
        expected = "a whole number, 1 or more"
    if expected:
        raise ConfigError(f"{where} is wrong", found=value, expected=expected)
    return value
