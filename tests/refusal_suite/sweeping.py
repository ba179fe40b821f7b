"""A sweep over a tiny real bundle: a prompt set with a few pictures, and what tests ask of the result."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from refusal_suite.fleet.config import SweepConfig
from refusal_suite.fleet.plan import Job, Plan, read_plan
from refusal_suite.fleet.sweep import Swept, sweep
from refusal_suite.fleet.work import Done, InProcess
from refusal_suite.judge import JUDGE, REFUSAL, Verdict
from refusal_suite.pictures import draw
from refusal_suite.prompts import Prompt

# A cache of 64 tokens and a tokenizer with a token per letter leave room for short questions.
PROMPTS = 12


@dataclass(frozen=True)
class SweepFolder:
    """A directory with `sweep.yaml`, the set that it names, and a picture."""

    path: Path
    bundle: Path

    def write(self, **changes: Any) -> Path:
        """`sweep.yaml` with these fields; the path of it."""
        values = {
            "bundles": {"tiny": str(self.bundle)},
            "prompts": [{"file": "set.csv"}],
            "max_tokens": 3,
            "chunk": 2,
            **changes,
        }
        (self.path / "sweep.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return self.path / "sweep.yaml"

    def plan(self, judge: str = JUDGE, **changes: Any) -> Plan:
        return read_plan(SweepConfig.read(self.write(**changes)), judge)

    def sweep(self, out: str, executor: Any = None, judge: str = JUDGE, **changes: Any) -> Swept:
        return sweep(self.plan(judge, **changes), self.path / out, executor or InProcess())


def make_folder(path: Path, bundle: Path) -> SweepFolder:
    draw("shapes").save(path / "shapes.png")
    rows = ["id,text,kind,category,image"]
    for number in range(PROMPTS):
        kind, image = ("harmful", "benign")[number % 2], "shapes.png" if number % 4 == 0 else ""
        rows.append(f"p{number},zq{number},{kind},c{number % 3},{image}")
    (path / "set.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return SweepFolder(path, bundle)


class AlwaysRefusal:
    """A judge that sees a refusal everywhere."""

    name = "always-refusal-1"

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict(REFUSAL, "always", self.name) for _ in answers]


def result_bytes(out: Path) -> dict[str, bytes]:
    """Every file of a sweep that is a result, by its path; what run.json says is none."""
    files = (path for path in out.rglob("*.json") if path != out / "run.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


class Counting(InProcess):
    """The executor in this process, which remembers what it was given and can be ended by Ctrl-C."""

    def __init__(self, interrupted_after: int | None = None) -> None:
        super().__init__()
        self.jobs: list[Job] = []
        self.closed = False
        self._left = interrupted_after

    def run(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        try:
            yield from super().run(self._counted(jobs))
        finally:
            self.closed = True

    def _counted(self, jobs: Iterable[Job]) -> Iterator[Job]:
        for job in jobs:
            if self._left is not None and len(self.jobs) >= self._left:
                raise KeyboardInterrupt
            self.jobs.append(job)
            yield job
