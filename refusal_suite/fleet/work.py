"""What a worker does with a unit, and the executor that does it in this process."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from jetson_runtime.errors import BundleError
from jetson_runtime.machine import machine_facts
from refusal_suite.fleet.plan import Job, Parcel
from refusal_suite.fleet.store import Entry
from refusal_suite.fleet.unit import BACKEND, Basis, Part, Unit
from refusal_suite.judges import Judge, RulesJudge
from refusal_suite.measure import measure
from refusal_suite.prompts import Prompt, PromptSet
from refusal_suite.results import entry

if TYPE_CHECKING:
    from jetson_runtime.runtime import Runtime

__all__ = ["Done", "Executor", "InProcess", "MakeJudge", "Worker", "here"]

MakeJudge: TypeAlias = "Callable[[], Judge]"
"""Makes the judge in the process that judges; it is pickled on its way there."""


@dataclass(frozen=True)
class Done:
    """A unit's answers, one per prompt in its order, and who gave them (a key of `Executor.workers`)."""

    unit: Unit
    entries: list[Entry]
    worker: str


class Executor(Protocol):
    """Computes units somewhere, in any order. `workers` says on what, `lost` how many workers died."""

    workers: dict[str, Any]
    lost: int

    def run(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """Every job once; ends what it started when it is closed or fails.

        Raises:
            HoldfastError: a unit can't be computed.
        """


class Worker:
    """Computes units one after the other; the judge and the bundle of the last one stay loaded."""

    def __init__(self, make_judge: MakeJudge = RulesJudge) -> None:
        self._judge: Judge | None = None
        self._make_judge = make_judge
        self._loaded: tuple[Path, int] | None = None
        self._runtime: Runtime | None = None
        self._answers_digest = ""

    def do(self, parcel: Parcel) -> list[Entry]:
        """The unit's answers as a report carries them.

        Raises:
            BundleError: the bundle here, or what would run it, is not what the unit was planned for.
            HoldfastError: it can't be opened or run, or a prompt can't be used.
        """
        if self._judge is None:
            self._judge = self._make_judge()
        judge, max_tokens = self._judge, parcel.unit.basis.max_tokens
        runtime = self._load(parcel.bundle, parcel.unit.basis.threads)
        self._check(parcel, judge.name)
        with tempfile.TemporaryDirectory() as folder:
            prompts = _with_pictures(parcel, Path(folder))
            asked = PromptSet("unit", parcel.unit.prompt_set, prompts)
            ((_, items),) = measure(runtime, [asked], [parcel.point], max_tokens, judge, quiet=True)
        return [entry(item) for item in items]

    def close(self) -> None:
        """Give the bundle back."""
        if self._runtime is not None:
            self._runtime.unload()
        self._runtime = self._loaded = None

    def _load(self, path: Path, threads: int) -> Runtime:
        import jetson_runtime

        if self._runtime is None or self._loaded != (path, threads):
            self.close()
            self._runtime = jetson_runtime.load(path, backend=BACKEND, threads=threads, allow_unadmitted=True)
            self._loaded, self._answers_digest = (path, threads), self._runtime.bundle.manifest.answers_digest
        return self._runtime

    def _check(self, parcel: Parcel, judge: str) -> None:
        """Derive the unit again from what is here: on another machine the same path may hold another bundle."""
        wanted = parcel.unit.basis
        basis = Basis.of(
            self._answers_digest,
            parcel.point,
            judge,
            picture=any(picture is not None for picture in parcel.pictures),
            max_tokens=wanted.max_tokens,
            threads=wanted.threads,
        )
        parts = tuple(
            Part(prompt.id, None if picture is None else hashlib.sha256(picture).hexdigest())
            for prompt, picture in zip(parcel.prompts, parcel.pictures, strict=True)
        )
        if Unit(basis, parcel.unit.prompt_set, parts).key != parcel.unit.key:
            differing = [name for name, value in vars(basis).items() if value != getattr(wanted, name)]
            raise BundleError(
                f"{parcel.bundle} on {platform.node()} is not what the sweep was planned for",
                found=f"another {', another '.join(differing or ['picture'])}",
                expected="the same bundle, the same Holdfast and the same packages on every machine",
                remedy="bring the bundle to the same path on each machine, install the same versions, try again",
            )


class InProcess:
    """Computes one unit after the other in this process."""

    def __init__(self, make_judge: MakeJudge = RulesJudge) -> None:
        self.workers: dict[str, Any] = {"in-process": here()}
        self._make_judge = make_judge
        self.lost = 0

    def run(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """See `Executor.run`."""
        worker = Worker(self._make_judge)
        try:
            for job in jobs:
                yield Done(job.unit, worker.do(job.parcel()), "in-process")
        finally:
            worker.close()


def _with_pictures(parcel: Parcel, folder: Path) -> tuple[Prompt, ...]:
    """The prompts with their pictures in `folder`: the planner's paths mean nothing on another machine."""
    prompts = list(parcel.prompts)
    for number, picture in enumerate(parcel.pictures):
        if picture is not None:
            path = folder / str(number)
            path.write_bytes(picture)
            prompts[number] = replace(prompts[number], image=path)
    return tuple(prompts)


def here() -> dict[str, Any]:
    """What this worker runs on; never part of a result."""
    return {"host": platform.node(), "process": os.getpid(), "machine": machine_facts()}
