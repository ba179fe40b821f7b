"""A claim about sweeps: one on a Ray cluster, a worker of which is killed, gives what one process gives."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path

from benchmarks.claims import Measured, claim
from benchmarks.workspace import EXITS, bundle
from refusal_suite.fleet.cluster import LOCAL, OnRay
from refusal_suite.fleet.config import RESERVED, SweepConfig
from refusal_suite.fleet.plan import Job, read_plan
from refusal_suite.fleet.sweep import sweep
from refusal_suite.fleet.work import Done, InProcess

WORKERS = 2
SWEEP = {
    "schedules": ["d3>d1@prefill", "d3>d2@4"],
    "prompts": [{"limit": 16}],
    "max_tokens": 12,
    "chunk": 4,
}


class LosesOne(OnRay):
    """Kills the worker of the first unit that is there; the worker was given the next one by then."""

    killed: str | None = None

    def run(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        for done in super().run(jobs):
            if self.killed is None:
                self.killed = done.worker
                os.kill(int(self.workers[done.worker]["process"]), signal.SIGKILL)
            yield done


@claim(
    "gate.sweep-same-bytes",
    "result files that differ between one process and a Ray cluster of two workers, one of them killed under way",
    "files",
    "<=",
    0,
)
def same_bytes() -> Measured:
    """Reports and units of the reference at three depths and on two schedules; a file that only one has differs."""
    made = bundle(EXITS)
    plan = read_plan(SweepConfig.from_dict({"bundles": {"reference": str(made.path)}, **SWEEP}, Path("sweep.yaml")))
    with tempfile.TemporaryDirectory() as folder:
        one, cluster = Path(folder) / "one", Path(folder) / "cluster"
        alone = sweep(plan, one, InProcess()).run
        executor = LosesOne(LOCAL, WORKERS, plan.config.threads)
        together = sweep(plan, cluster, executor).run
        files, others = _results(one), _results(cluster)
    differing = sorted(name for name in files.keys() | others.keys() if files.get(name) != others.get(name))
    # Without a worker lost under way the figure would say nothing.
    value = len(differing) if together["workers_lost"] == 1 else len(files)
    return Measured(
        value,
        {
            "files": len(files),
            "differing": differing,
            "answers": alone["answers"],
            "answers_computed": {"one process": alone["answers_computed"], "cluster": together["answers_computed"]},
            "units": together["units_computed"],
            "workers_lost": together["workers_lost"],
            "units_by_worker": sorted(facts["units"] for facts in together["workers"].values()),
            "sweep": SWEEP,
        },
    )


def _results(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.json")
        if path.name != f"{RESERVED}.json"
    }
