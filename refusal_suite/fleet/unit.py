"""The unit of a sweep, and its key: the digest of everything that decides what the unit's answers are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from jetson_runtime.files import canonical_json
from jetson_runtime.ladder import OperatingPoint
from refusal_suite.margins import describe_margins

__all__ = ["BACKEND", "Basis", "Part", "Unit", "digest"]

BACKEND = "onnxruntime"
# They turn a prompt into tokens, a picture into numbers and both into an answer: another version may do it otherwise.
_PACKAGES = ("holdfast", "numpy", "onnxruntime", "pillow", "tokenizers")


def digest(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _software() -> dict[str, str]:
    return {package: version(package) for package in _PACKAGES}


@cache
def _margins() -> str:
    return digest(describe_margins())


@dataclass(frozen=True)
class Basis:
    """What decides an answer besides the prompt, its verdict and its margin.

    `operation` is `Depth.operation` or `Schedule.operation`, without the vision exit where no picture is shown; names
    are left out because they decide nothing. `threads` counts because the order in which numbers are added depends on
    it.
    """

    bundle: str
    operation: tuple[int, ...]
    judge: str
    margins: str
    max_tokens: int
    threads: int
    backend: str
    software: Mapping[str, str]

    @classmethod
    def of(
        cls,
        bundle: str,
        point: OperatingPoint,
        judge: str,
        *,
        picture: bool,
        max_tokens: int,
        threads: int,
    ) -> Basis:
        """What would decide here: the bundle by its `Manifest.answers_digest`, the packages by what is installed."""
        return cls(
            bundle=bundle,
            operation=point.operation if picture else point.operation[1:],
            judge=judge,
            margins=_margins(),
            max_tokens=max_tokens,
            threads=threads,
            backend=BACKEND,
            software=_software(),
        )


@dataclass(frozen=True)
class Part:
    """One prompt of a unit: its id, and the digest of its picture's file if it has one."""

    id: str
    image: str | None


@dataclass(frozen=True)
class Unit:
    """Some prompts of one set, to be answered on one basis; `prompt_set` is the digest of the set's file."""

    basis: Basis
    prompt_set: str
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """What the key is the digest of."""
        return asdict(self)

    @property
    def key(self) -> str:
        """The unit's address: equal keys are equal answers."""
        return digest(self.to_dict())

    @property
    def group(self) -> str:
        """The key without the prompts: units of one group can stand in for each other, prompt by prompt."""
        return digest({"basis": asdict(self.basis), "prompt_set": self.prompt_set})

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Unit:
        """What `to_dict` wrote.

        Raises:
            KeyError, TypeError: it is not of that form.
        """
        basis = value["basis"]
        parts: Sequence[Mapping[str, Any]] = value["parts"]
        return cls(
            Basis(**{**basis, "operation": tuple(basis["operation"])}),
            value["prompt_set"],
            tuple(Part(**part) for part in parts),
        )
