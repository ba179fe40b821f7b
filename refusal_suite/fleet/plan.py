"""What a sweep has to compute: bundles, prompt sets and pictures read once, and cut into units."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.enforcement import Enforcement
from jetson_runtime.errors import ConfigError, InputError
from jetson_runtime.ladder import Depth, OperatingPoint, Schedule
from refusal_suite.fleet.config import PromptSource, SweepConfig
from refusal_suite.fleet.store import UnitStore
from refusal_suite.fleet.unit import Basis, Part, Unit
from refusal_suite.judge import JUDGE
from refusal_suite.measure import unique_ids
from refusal_suite.prompts import Prompt, PromptSet, load_prompts
from refusal_suite.results import describe_set

__all__ = ["AskedSet", "Job", "Parcel", "Plan", "Target", "read_plan"]


@dataclass(frozen=True)
class AskedSet:
    """The prompts of one set that are asked, with their digests, and what the report says about the set."""

    prompts: PromptSet
    parts: tuple[Part, ...]
    described: dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One bundle of the sweep and what is measured on it, in the ladder's order."""

    name: str
    bundle: Bundle
    depths: tuple[Depth, ...]
    schedules: tuple[Schedule, ...]

    @cached_property
    def answers_digest(self) -> str:
        """What of the bundle decides an answer."""
        return self.bundle.manifest.answers_digest

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """Everything that is measured."""
        return self.depths + self.schedules


@dataclass(frozen=True)
class Job:
    """A unit that is still to be computed, on one of the bundles that it stands for."""

    unit: Unit
    bundle: Path
    point: OperatingPoint
    prompts: tuple[Prompt, ...]

    def parcel(self) -> Parcel:
        """The job with its pictures, ready to be sent to another machine.

        Raises:
            InputError: a picture can't be read.
        """
        return Parcel(self.unit, self.bundle, self.point, self.prompts, tuple(map(_picture, self.prompts)))


@dataclass(frozen=True)
class Parcel:
    """All that a worker needs besides the bundle."""

    unit: Unit
    bundle: Path
    point: OperatingPoint
    prompts: tuple[Prompt, ...]
    pictures: tuple[bytes | None, ...] = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """A sweep whose inputs were read and found in order; `judge` is the name of the judge, with its version."""

    config: SweepConfig
    judge: str
    targets: tuple[Target, ...]
    sets: tuple[AskedSet, ...]

    def group(self, target: Target, point: OperatingPoint, asked: AskedSet, *, picture: bool) -> Unit:
        """The unit without prompts whose group the answers belong to."""
        basis = Basis.of(
            target.answers_digest,
            point,
            self.judge,
            picture=picture,
            max_tokens=self.config.max_tokens,
            threads=self.config.threads,
        )
        return Unit(basis, asked.prompts.sha256, ())

    def jobs(self, store: UnitStore) -> Iterator[Job]:
        """The units that `store` can't answer, bundle by bundle, each once whoever needs it.

        A chunk is cut by place in the set, so what is there already changes no other chunk; of a chunk that is there in
        part, the rest is a unit.
        """
        planned: set[str] = set()
        for target in self.targets:
            for point in target.points:
                for asked in self.sets:
                    for job in self._missing(store, target, point, asked):
                        if job.unit.key not in planned:
                            planned.add(job.unit.key)
                            yield job

    def _missing(self, store: UnitStore, target: Target, point: OperatingPoint, asked: AskedSet) -> Iterator[Job]:
        size = self.config.chunk
        for picture in (False, True):
            group = self.group(target, point, asked, picture=picture)
            known = store.known(group)
            pairs = [
                (part, prompt)
                for part, prompt in zip(asked.parts, asked.prompts.prompts, strict=True)
                if (part.image is not None) == picture
            ]
            for begin in range(0, len(pairs), size):
                rest = [(part, prompt) for part, prompt in pairs[begin : begin + size] if part not in known]
                if rest:
                    parts, prompts = zip(*rest, strict=True)
                    yield Job(replace(group, parts=parts), target.bundle.path, point, prompts)


def read_plan(config: SweepConfig, judge: str = JUDGE) -> Plan:
    """Open every bundle (each file is checked) and read every prompt set.

    Raises:
        BundleError, DigestError: a bundle can't be opened. AdmissionError: it is signed, so not for measuring.
        InputError: a prompt set or picture can't be used.
        ConfigError: a depth or schedule that a bundle does not have; all of them are listed.
    """
    sets = tuple(_asked(source) for source in config.prompts)
    unique_ids([asked.prompts for asked in sets])
    mistakes: list[str] = []
    targets = tuple(_target(name, path, config, mistakes) for name, path in config.bundles.items())
    if mistakes:
        raise ConfigError(
            "the sweep names what its bundles don't have",
            found="\n    - ".join(["", *mistakes]),
            remedy="name depths and schedules that every bundle has, or make two sweeps into the same directory",
        )
    return Plan(config, judge, targets, sets)


def _target(name: str, path: Path, config: SweepConfig, mistakes: list[str]) -> Target:
    bundle = open_bundle(path)
    Enforcement.of(bundle, allow_unadmitted=True)
    ladder = bundle.manifest.ladder
    depths = {depth.name: depth for depth in ladder}
    schedules = {schedule.name: schedule for schedule in ladder.schedules()}
    for kind, wanted, there in (("depth", config.depths, depths), ("schedule", config.schedules, schedules)):
        mistakes += [
            f"bundle {name} has no {kind} '{each}'; its depths are {', '.join(depths)}"
            for each in wanted or ()
            if each not in there
        ]
    return Target(
        name,
        bundle,
        tuple(depth for each, depth in depths.items() if config.depths is None or each in config.depths),
        tuple(one for each, one in schedules.items() if config.schedules is None or each in config.schedules),
    )


def _asked(source: PromptSource) -> AskedSet:
    whole = load_prompts(source.path, source.format, kind=source.kind)
    taken = source.limit is not None and source.limit < len(whole.prompts)
    prompts = whole.limited(source.limit, source.seed) if source.limit is not None and taken else whole
    return AskedSet(prompts, _parts(prompts.prompts), describe_set(prompts, whole, source.seed))


def _parts(prompts: Sequence[Prompt]) -> tuple[Part, ...]:
    digests: dict[Path | None, str | None] = {None: None}
    for prompt in prompts:
        # A set shows the same few pictures again and again.
        if prompt.image not in digests:
            digests[prompt.image] = hashlib.sha256(_picture(prompt) or b"").hexdigest()
    return tuple(Part(prompt.id, digests[prompt.image]) for prompt in prompts)


def _picture(prompt: Prompt) -> bytes | None:
    try:
        return None if prompt.image is None else prompt.image.read_bytes()
    except OSError as error:
        raise InputError(
            f"the picture of prompt '{prompt.id}' can't be read", found=error.strerror, remedy=f"check {prompt.image}"
        ) from None
