"""`build.yaml`: what to build from a checkpoint. Every mistake in it is reported at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine_builder.targets import target_names
from jetson_runtime.errors import ConfigError
from jetson_runtime.ladder import Depth, Ladder

__all__ = ["PRECISIONS", "BuildConfig"]

PRECISIONS = ("fp32", "fp16")
_FIELDS = ("checkpoint", "model", "release", "precision", "kv_capacity", "image_size", "exits", "ladder", "target")


@dataclass(frozen=True)
class BuildConfig:
    """A validated `build.yaml` (docs/engine-build.md describes the fields)."""

    model_id: str
    model_version: str
    release: int
    precision: str
    kv_capacity: int
    image_size: int | None
    vision_exits: tuple[int, ...]
    decoder_exits: tuple[int, ...]
    ladder: Ladder
    target: str
    checkpoint: Path | None = None

    @classmethod
    def read(cls, path: Path) -> BuildConfig:
        """Read and validate a file; a relative checkpoint path counts from the file's own directory.

        Raises:
            ConfigError: the file is not there, not YAML, or has mistakes; all of them are listed.
        """
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} can't be read", found=error.strerror, remedy="check the path") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML", found=" ".join(str(error).split())) from None
        return cls.from_dict(value, path)

    @classmethod
    def from_dict(cls, value: Any, path: Path) -> BuildConfig:
        """Validate a mapping that was read from `path`.

        Raises:
            ConfigError: there are mistakes; all of them are listed.
        """
        check = _Checker(value if isinstance(value, dict) else {})
        if not isinstance(value, dict):
            check.mistakes.append(f"the file holds a {type(value).__name__}, not a mapping")
        config = check.config(cls, path.absolute().parent)
        if check.mistakes or config is None:
            raise ConfigError(
                f"{path} has {len(check.mistakes)} mistake{'s' * (len(check.mistakes) != 1)}",
                found="\n    - ".join(["", *check.mistakes]),
                remedy="correct them; docs/engine-build.md describes every field",
            )
        return config


class _Checker:
    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        self.mistakes: list[str] = []

    def config(self, kind: type[BuildConfig], base: Path) -> BuildConfig | None:
        self.mistakes += [
            f"unknown field '{name}'; known are {', '.join(_FIELDS)}" for name in self.value if name not in _FIELDS
        ]
        model = self.value.get("model")
        if not isinstance(model, dict) or not all(isinstance(model.get(key), str) for key in ("id", "version")):
            self.mistakes.append(
                "model: a mapping with the texts 'id' and 'version' is expected (quote a version like \"1.0\")"
            )
            model = {}
        elif not re.fullmatch(r"[\w./-]{1,128}", model["id"]):
            self.mistakes.append(f"model.id: {model['id']!r} may hold letters, digits, '.', '_', '-' and '/' only")
        precision = self._choice("precision", PRECISIONS)
        target = self._choice("target", target_names())
        release = self._number("release", default=1)
        capacity = self._number("kv_capacity", low=64)
        image_size = self._number("image_size") if self.value.get("image_size") is not None else None
        checkpoint = self.value.get("checkpoint")
        if checkpoint is not None and not isinstance(checkpoint, str):
            self.mistakes.append("checkpoint: a path is expected")
        ladder = self._ladder()
        exits = self._exits(ladder)
        if self.mistakes or ladder is None:
            return None
        return kind(
            model_id=model["id"],
            model_version=model["version"],
            release=release,
            precision=precision,
            kv_capacity=capacity,
            image_size=image_size,
            vision_exits=exits["vision"],
            decoder_exits=exits["decoder"],
            ladder=ladder,
            target=target,
            checkpoint=None if checkpoint is None else base / checkpoint,
        )

    def _choice(self, name: str, allowed: Sequence[str]) -> str:
        value = self.value.get(name)
        if value not in allowed:
            self.mistakes.append(f"{name}: {value!r} is not one of {', '.join(allowed)}")
        return str(value)

    def _number(self, name: str, default: int | None = None, low: int = 1) -> int:
        value = self.value.get(name, default)
        if type(value) is not int or value < low:
            self.mistakes.append(f"{name}: {value!r} is not a whole number of at least {low}")
            return low
        return value

    def _ladder(self) -> Ladder | None:
        entries = self.value.get("ladder")
        if not isinstance(entries, list) or not entries:
            self.mistakes.append("ladder: a list of depths is expected, each with name, vision and decoder")
            return None
        depths = []
        for number, entry in enumerate(entries):
            if (
                not isinstance(entry, dict)
                or set(entry) != {"name", "vision", "decoder"}
                or not re.fullmatch(r"[\w.-]{1,32}", str(entry["name"]))
                or any(type(entry[tower]) is not int or entry[tower] < 1 for tower in ("vision", "decoder"))
            ):
                self.mistakes.append(
                    f"ladder[{number}]: {entry!r} is not a depth like {{name: d1, vision: 4, decoder: 12}}"
                )
            else:
                depths.append(Depth(str(entry["name"]), entry["vision"], entry["decoder"]))
        if len(depths) < len(entries):
            return None
        try:
            return Ladder(tuple(depths))
        except ConfigError as error:
            self.mistakes.append(" ".join(str(error).split()))
            return None

    def _exits(self, ladder: Ladder | None) -> dict[str, tuple[int, ...]]:
        """The exits per tower: what `exits` lists, or else the ladder's own."""
        given = self.value.get("exits", {})
        if not isinstance(given, dict) or any(tower not in ("vision", "decoder") for tower in given):
            self.mistakes.append("exits: a mapping of 'vision' and 'decoder' to lists of layers is expected")
            given = {}
        exits = {}
        for tower in ("vision", "decoder"):
            used = () if ladder is None else (ladder.vision_exits() if tower == "vision" else ladder.decoder_exits())
            layers = given.get(tower, list(used))
            if not isinstance(layers, list) or any(type(layer) is not int or layer < 1 for layer in layers):
                self.mistakes.append(f"exits.{tower}: {layers!r} is not a list of layers (1 is the first)")
                layers = list(used)
            elif list(layers) != sorted(set(layers)):
                self.mistakes.append(f"exits.{tower}: {layers} is not increasing")
            for layer in used:
                if layer not in layers:
                    self.mistakes.append(f"exits.{tower}: the ladder uses exit {layer}, which is not in {layers}")
            if used and layers and max(layers) > max(used):
                self.mistakes.append(
                    f"exits.{tower}: exit {max(layers)} is deeper than full depth, exit {max(used)}; it would never run"
                )
            exits[tower] = tuple(layers)
        return exits
