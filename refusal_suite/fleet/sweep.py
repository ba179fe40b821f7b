"""A sweep from its plan to its reports: what is missing is computed, kept unit by unit, and put together at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jetson_runtime.files import write_json
from jetson_runtime.ladder import OperatingPoint
from refusal_suite.fleet.config import RESERVED
from refusal_suite.fleet.plan import Job, Plan, Target
from refusal_suite.fleet.store import Entry, UnitStore, locked
from refusal_suite.fleet.unit import BACKEND
from refusal_suite.fleet.work import Executor
from refusal_suite.judge import Verdict
from refusal_suite.prompts import Prompt
from refusal_suite.results import build_report, point_results

__all__ = ["RUN_SCHEMA", "UNITS", "Swept", "sweep"]

RUN_SCHEMA = "holdfast/sweep-run/1"
UNITS = "units"
_PARTS = ("depths", "schedules")


@dataclass(frozen=True)
class Kept:
    """A judged answer as a unit carries it: what a report needs, without the answer's text."""

    prompt: Prompt
    verdict: Verdict
    tokens: int
    finish_reason: str
    margin: float | None
    sha256: str

    @classmethod
    def of(cls, prompt: Prompt, entry: Entry) -> Kept:
        """The entry of a prompt."""
        verdict = Verdict(entry["label"], entry["rule"], entry["judge"])
        return cls(prompt, verdict, entry["n_tokens"], entry["finish_reason"], entry["margin"], entry["answer_sha256"])


@dataclass(frozen=True)
class Swept:
    """What came of a sweep: by bundle the report and its file, and the facts about the run, which are no result."""

    reports: Mapping[str, Mapping[str, Any]]
    paths: Mapping[str, Path]
    run: Mapping[str, Any]


def sweep(plan: Plan, out: Path, executor: Executor) -> Swept:
    """Compute what `out` does not hold yet, then write `NAME.json` per bundle and `run.json` about the run.

    The reports depend on the plan alone, byte for byte: not on the executor, on what was there, or on the order.

    Raises:
        StorageError: `out` can't be written or another sweep uses it. HoldfastError: a unit can't be computed; the
            units that were finished stay.
    """
    started, clock = datetime.now(timezone.utc), time.monotonic()
    with locked(out):
        store = UnitStore(out / UNITS)
        jobs = list(plan.jobs(store))
        computed = dict.fromkeys(executor.workers, 0)
        for worker in _compute(jobs, store, executor):
            computed[worker] = computed.get(worker, 0) + 1
        reports = {target.name: _report(plan, target, store) for target in plan.targets}
        run = {
            "schema": RUN_SCHEMA,
            "started": started.isoformat(timespec="seconds"),
            "elapsed_s": round(time.monotonic() - clock, 3),
            "answers": sum(
                len(point["items"]) for report in reports.values() for part in _PARTS for point in report[part]
            ),
            "answers_computed": sum(len(job.prompts) for job in jobs),
            "units_computed": len(jobs),
            "units_damaged": store.damaged,
            "workers_lost": executor.lost,
            "workers": {name: {**facts, "units": computed.get(name, 0)} for name, facts in executor.workers.items()},
        }
        paths = {name: out / f"{name}.json" for name in reports}
        for name, report in reports.items():
            write_json(paths[name], report)
        write_json(out / f"{RESERVED}.json", run)
    return Swept(reports, paths, run)


def _compute(jobs: Sequence[Job], store: UnitStore, executor: Executor) -> Iterator[str]:
    """Keep every unit as soon as it is there; yields who computed it."""
    if not jobs:
        return
    with (
        tqdm(total=sum(len(job.prompts) for job in jobs), unit="answer", disable=None) as progress,
        closing(executor.run(jobs)) as finished,
    ):
        for done in finished:
            store.keep(done.unit, done.entries)
            progress.update(len(done.entries))
            yield done.worker


def _report(plan: Plan, target: Target, store: UnitStore) -> dict[str, Any]:
    manifest = target.bundle.manifest
    facts = {
        "model": {"id": manifest.model.id, "version": manifest.model.version},
        "release": manifest.release,
        "bundle_digest": target.bundle.digest,
        "engines_digest": manifest.engines_digest,
        "backend": BACKEND,
        "ladder": manifest.ladder.to_dicts(),
    }
    results = {point.name: _items(plan, target, point, store) for point in target.points}
    report = build_report(
        facts,
        [asked.described for asked in plan.sets],
        plan.config.max_tokens,
        *point_results(manifest.ladder, target.depths, target.schedules, results),
        plan.judge,
    )
    # Which machines there were decides nothing; run.json says it.
    del report["machine"]
    return report


def _items(plan: Plan, target: Target, point: OperatingPoint, store: UnitStore) -> list[Kept]:
    items = []
    for asked in plan.sets:
        known = [store.known(plan.group(target, point, asked, picture=picture)) for picture in (False, True)]
        items += [
            Kept.of(prompt, known[part.image is not None][part])
            for part, prompt in zip(asked.parts, asked.prompts.prompts, strict=True)
        ]
    return items
