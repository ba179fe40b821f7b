"""`sweep.yaml`: what to measure on which bundles. Every mistake in it is reported at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jetson_runtime.errors import ConfigError
from refusal_suite.formats import FORMATS
from refusal_suite.prompts import BENIGN, BUILTIN, HARMFUL

__all__ = ["ALL", "RESERVED", "PromptSource", "SweepConfig"]

ALL = "all"
# A bundle's report is NAME.json; this one says what computed the sweep.
RESERVED = "run"
_FIELDS = ("bundles", "depths", "schedules", "prompts", "max_tokens", "chunk", "threads")
_PROMPT_FIELDS = ("file", "format", "kind", "limit", "seed")


@dataclass(frozen=True)
class PromptSource:
    """A prompt set and how much of it: `refusal-check run`'s options of the same names."""

    path: Path = BUILTIN
    format: str = "auto"
    kind: str | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class SweepConfig:
    """A validated `sweep.yaml` (docs/fleet.md describes the fields).

    `depths` and `schedules` are names, or None for all that a bundle has; `chunk` is the most prompts of a unit.
    """

    bundles: dict[str, Path]
    depths: tuple[str, ...] | None
    schedules: tuple[str, ...] | None
    prompts: tuple[PromptSource, ...]
    max_tokens: int
    chunk: int
    threads: int

    @classmethod
    def read(cls, path: Path) -> SweepConfig:
        """Read and validate a file; relative paths in it count from the file's own directory.

        Raises:
            ConfigError: the file is not there, not YAML, or has mistakes; all of them are listed.
        """
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} can't be read", found=error.strerror, remedy="check the path") from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path} is not YAML", found=" ".join(str(error).split())) from None
        return cls.from_dict(value, path)

    @classmethod
    def from_dict(cls, value: Any, path: Path) -> SweepConfig:
        """Validate a mapping that was read from `path`.

        Raises:
            ConfigError: there are mistakes; all of them are listed.
        """
        check = _Checker(value if isinstance(value, dict) else {}, path.absolute().parent)
        if not isinstance(value, dict):
            check.mistakes.append(f"the file holds a {type(value).__name__}, not a mapping")
        config = cls(
            bundles=check.bundles(),
            depths=check.names("depths", absent=None),
            schedules=check.names("schedules", absent=()),
            prompts=check.prompts(),
            max_tokens=check.number("max_tokens", 48),
            chunk=check.number("chunk", 16),
            threads=check.number("threads", 1),
        )
        if config.depths == () and config.schedules == ():
            check.mistakes.append("depths, schedules: nothing is asked for; name at least one depth or schedule")
        if check.mistakes:
            raise ConfigError(
                f"{path} has {len(check.mistakes)} mistake{'s' * (len(check.mistakes) != 1)}",
                found="\n    - ".join(["", *check.mistakes]),
                remedy="correct them; docs/fleet.md describes every field",
            )
        return config


class _Checker:
    """Reads the fields and collects what is wrong with them."""

    def __init__(self, value: dict[Any, Any], base: Path) -> None:
        self.value = value
        self.base = base
        self.mistakes = [f"unknown field '{name}'; known are {', '.join(_FIELDS)}" for name in value
                         if name not in _FIELDS]  # fmt: skip

    def bundles(self) -> dict[str, Path]:
        given = self.value.get("bundles")
        if not isinstance(given, dict) or not given:
            self.mistakes.append("bundles: a mapping of names to bundle directories is expected")
            return {}
        found = {}
        for name, place in given.items():
            if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,63}", name, re.ASCII) or name == RESERVED:
                self.mistakes.append(
                    f"bundles: {name!r} can't name a report; letters, digits, '.', '_', '-' can, '{RESERVED}' is taken"
                )
            elif not isinstance(place, str) or not place:
                self.mistakes.append(f"bundles.{name}: {place!r} is not the path of a directory")
            else:
                found[name] = self.base / place
        return found

    def names(self, field: str, absent: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The names that are listed; None for all of them."""
        given = self.value.get(field)
        if given is None and field not in self.value:
            return absent
        if given == ALL:
            return None
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            self.mistakes.append(f"{field}: {given!r} is neither '{ALL}' nor a list of names")
            return absent
        self.mistakes += [f"{field}: '{name}' occurs twice" for name in sorted(set(given)) if given.count(name) > 1]
        return tuple(given)

    def prompts(self) -> tuple[PromptSource, ...]:
        given = self.value.get("prompts", [{}])
        if not isinstance(given, list) or not given or not all(isinstance(entry, dict) for entry in given):
            self.mistakes.append(
                "prompts: a list of sets is expected, each a mapping like {file: xstest.csv, limit: 44}; "
                "without 'file' it is the set that comes with Holdfast"
            )
            return ()
        return tuple(self._source(f"prompts[{number}]", entry) for number, entry in enumerate(given))

    def _source(self, where: str, entry: dict[Any, Any]) -> PromptSource:
        self.mistakes += [f"{where}: unknown field '{name}'; known are {', '.join(_PROMPT_FIELDS)}" for name in entry
                          if name not in _PROMPT_FIELDS]  # fmt: skip
        file = entry.get("file")
        if file is not None and (not isinstance(file, str) or not file):
            self.mistakes.append(f"{where}.file: {file!r} is not a path")
            file = None
        limit = entry.get("limit")
        return PromptSource(
            path=BUILTIN if file is None else self.base / file,
            format=self._choice(f"{where}.format", entry.get("format", "auto"), ("auto", *FORMATS)),
            kind=None if entry.get("kind") is None else self._choice(f"{where}.kind", entry["kind"], (HARMFUL, BENIGN)),
            limit=None if limit is None else self._whole(f"{where}.limit", limit, 1),
            seed=self._whole(f"{where}.seed", entry.get("seed", 0), 0),
        )

    def number(self, field: str, default: int) -> int:
        return self._whole(field, self.value.get(field, default), 1)

    def _whole(self, where: str, value: Any, low: int) -> int:
        if type(value) is not int or value < low:
            self.mistakes.append(f"{where}: {value!r} is not a whole number of at least {low}")
            return low
        return value

    def _choice(self, where: str, value: Any, allowed: tuple[str, ...]) -> str:
        if value not in allowed:
            self.mistakes.append(f"{where}: {value!r} is not one of {', '.join(allowed)}")
        return str(value)
