"""The recipe of a projector training: a YAML file, checked before anything is computed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from jetson_runtime.errors import ConfigError
from realignment.assemble import IMAGE_TOKENS

__all__ = ["PROJECTOR_RECIPE", "Phase", "Recipe", "read_recipe"]

PROJECTOR_RECIPE = Path(__file__).parent / "recipes" / "projector.yaml"


@dataclass(frozen=True)
class Phase:
    """`steps` steps of `pictures` pictures, each with `questions` questions and `image_tokens` of its image tokens."""

    steps: int
    pictures: int
    questions: int
    image_tokens: int


@dataclass(frozen=True)
class Recipe:
    """How the projector is trained; recipes/projector.yaml says what each entry is for."""

    seed: int
    vision_exit: int
    train_pictures: int
    held_out_pictures: int
    variant_every: int
    learning_rate: float
    weight_decay: float
    clip: float
    warmup_steps: int
    max_minutes: float
    save_minutes: float
    measure_every: int
    phases: tuple[Phase, ...]
    sha256: str

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase that `step` (counted from 0) belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


def read_recipe(file: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        ConfigError: it can't be read, or an entry is missing, unknown or out of range.
    """
    try:
        text = file.read_bytes()
        value = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{file} can't be read", found=error.strerror, remedy="check the path") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML", found=error) from None
    if not isinstance(value, dict) or not isinstance(value.get("phases"), list):
        raise ConfigError(f"{file} is not a projector recipe", expected="a mapping with a list of phases")
    phases = tuple(_entries(Phase, row, f"{file}, phase {n}") for n, row in enumerate(value["phases"], start=1))
    recipe: Recipe = _entries(
        Recipe, {**value, "phases": phases, "sha256": hashlib.sha256(text).hexdigest()}, str(file)
    )
    for phase in phases:
        if not (1 <= phase.image_tokens <= IMAGE_TOKENS):
            raise ConfigError(
                f"{file}: image_tokens out of range", found=phase.image_tokens, expected=f"1 to {IMAGE_TOKENS}"
            )
    return recipe


def _entries(kind: type[Any], value: Any, where: str) -> Any:
    """A dataclass out of a mapping whose keys and types are checked; an int may stand for a float."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not a mapping", found=value)
    wanted = {field.name: str(field.type) for field in fields(kind)}
    if set(value) != set(wanted):
        odd = ", ".join(sorted(str(name) for name in set(value) ^ set(wanted)))
        raise ConfigError(f"{where}: missing or unknown entries", found=odd, expected=", ".join(wanted))
    for name, entry in value.items():
        number = isinstance(entry, int) and not isinstance(entry, bool)
        if (wanted[name] == "int" and not number) or (
            wanted[name] == "float" and not (number or isinstance(entry, float))
        ):
            raise ConfigError(f"{where}: {name} has the wrong type", found=entry, expected=wanted[name])
        if wanted[name] in ("int", "float") and (entry < 0 or (entry == 0 and name in ("pictures", "questions"))):
            raise ConfigError(f"{where}: {name} is out of range", found=entry, expected="a positive number")
    return kind(**value)
