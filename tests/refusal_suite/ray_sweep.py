"""Run by test_fleet_cluster in a process of its own: a sweep on a local Ray cluster of two workers, one of them killed.

    python ray_sweep.py SWEEP.yaml OUT

Ray starts threads and changes signal handlers and warnings, which no test process should keep.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jetson_runtime.errors import BackendError
from refusal_suite.fleet.cluster import LOCAL, OnRay
from refusal_suite.fleet.config import SweepConfig
from refusal_suite.fleet.plan import Job, Parcel, read_plan
from refusal_suite.fleet.sweep import sweep
from refusal_suite.fleet.work import Done


class Deadly:
    """Ends the process that reads it, as a bundle that does not fit the memory would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


class DeadlyJob(Job):
    """A job whose parcel no worker survives."""

    def parcel(self) -> Parcel:
        return replace(super().parcel(), bundle=Deadly())  # type: ignore[arg-type]


class Rough(OnRay):
    """Kills the worker of the first unit as soon as it is there: by then it works on the next one.

    Behind the jobs of the sweep comes a deadly one.
    """

    killed = 0

    def run(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        jobs = list(jobs)
        try:
            for done in super().run([*jobs, DeadlyJob(**vars(jobs[-1]))]):
                if not self.killed:
                    self.killed = int(self.workers[done.worker]["process"])
                    os.kill(self.killed, signal.SIGKILL)
                yield done
        except BackendError as error:
            print("gave up:", " ".join(str(error).split()))


def main() -> None:
    plan = read_plan(SweepConfig.read(Path(sys.argv[1])))
    executor = Rough(LOCAL, 2, plan.config.threads)
    run = sweep(plan, Path(sys.argv[2]), executor).run
    worked = [name for name, facts in run["workers"].items() if facts["units"]]
    print("lost", run["workers_lost"], "computed", run["units_computed"], "by several", len(worked) > 1)


if __name__ == "__main__":
    main()
