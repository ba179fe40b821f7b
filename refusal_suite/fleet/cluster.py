"""The executor on a Ray cluster: one actor per worker, one unit at a time, a unit whose worker dies goes to another."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from jetson_runtime import errors
from jetson_runtime.console import require
from jetson_runtime.errors import BackendError, ConfigError, HoldfastError
from refusal_suite.fleet.plan import Job, Parcel
from refusal_suite.fleet.store import Entry
from refusal_suite.fleet.work import Done, MakeJudge, Worker, here
from refusal_suite.judges import RulesJudge

__all__ = ["ATTEMPTS", "LOCAL", "OnRay"]

LOCAL = "local"
# A unit that took this many workers with it is not given to another one; nor is a worker started again when this many
# in a row died before their first unit.
ATTEMPTS = 3
_STARTING = "starting"
_OBJECT_STORE_BYTES = 256 << 20
# Ray itself tries for more than ten minutes.
_CONNECT_S = 10.0


@dataclass(frozen=True)
class _Failure:
    """One of our errors on its way between processes: exceptions with keywords can't be pickled."""

    kind: str
    what: str
    found: str | None
    expected: str | None
    remedy: str | None

    def error(self) -> HoldfastError:
        kind: type[HoldfastError] = getattr(errors, self.kind)
        return kind(self.what, found=self.found, expected=self.expected, remedy=self.remedy)


@dataclass(frozen=True)
class _Death:
    """What a call returns whose worker is gone."""

    reason: str


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, make_judge: MakeJudge) -> None:
        self._worker = Worker(make_judge)

    def here(self) -> dict[str, Any]:
        return here()

    def do(self, parcel: Parcel) -> list[Entry] | _Failure:
        try:
            return self._worker.do(parcel)
        except HoldfastError as error:
            return _Failure(type(error).__name__, error.what, error.found, error.expected, error.remedy)


class OnRay:
    """Computes units on `workers` processes of a Ray cluster, each with `threads` CPUs.

    `address` "local" starts a cluster of this machine, reachable from it alone and gone afterwards; any other joins
    the cluster there. Without `workers` there are as many as the cluster has CPUs for.

    Raises:
        MissingExtraError: Ray is not installed. ConfigError: there is no such address, or nothing answers there.
    """

    def __init__(self, address: str, workers: int | None, threads: int, make_judge: MakeJudge = RulesJudge) -> None:
        self.workers: dict[str, Any] = {}
        self.lost = 0
        if address != LOCAL:
            _check_reachable(address)
        self._ray = _import_ray(address)
        self._address = address
        self._wanted = workers
        self._threads = threads
        self._make_judge = make_judge

    def run(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """See `Executor.run`.

        Raises:
            ConfigError: the cluster can't be started or joined, or is too small.
            BackendError: workers die again and again. HoldfastError: a unit can't be computed.
        """
        ray = self._ray
        with _connected(ray, self._address, self._wanted, self._threads):
            cpus = int(ray.cluster_resources().get("CPU", 0))
            count = self._wanted or cpus // self._threads
            if count < 1 or count * self._threads > cpus:
                raise ConfigError(
                    "the cluster is too small",
                    found=f"{cpus} CPUs",
                    expected=f"{max(count, 1)} workers with {self._threads} CPUs each",
                    remedy="ask for fewer workers or threads, or add machines",
                )
            yield from _Pool(ray, self, count, self._threads, self._make_judge).run(deque(jobs))


class _Pool:
    """The workers of one run. `running` says for each started call who does it and on which job; None: starting."""

    def __init__(self, ray: Any, executor: OnRay, count: int, threads: int, make_judge: MakeJudge) -> None:
        self._ray = ray
        self._executor = executor
        self._make_judge = make_judge
        self._kind = ray.remote(_Actor).options(num_cpus=threads, max_restarts=0)
        self._running: dict[Any, tuple[Any, str, Job | None]] = {}
        self._idle: list[tuple[Any, str]] = []
        self._lost: Counter[str] = Counter()
        for _ in range(count):
            self._start()

    def run(self, jobs: deque[Job]) -> Generator[Done, None, None]:
        while jobs or any(job for _, _, job in self._running.values()):
            (call,), _ = self._ray.wait(list(self._running), num_returns=1)
            actor, name, job = self._running.pop(call)
            result = self._result(call)
            if isinstance(result, _Failure):
                raise result.error()
            if isinstance(result, _Death):
                self._died(job, result, jobs)
            elif job is None:
                name = f"{result['host']}:{result['process']}"
                self._executor.workers[name] = result
                del self._lost[_STARTING]
            if not isinstance(result, _Death):
                self._idle.append((actor, name))
            # Workers go on before the result is handed over: writing it must not keep a machine waiting.
            self._assign(jobs)
            if job is not None and not isinstance(result, _Death):
                yield Done(job.unit, result, name)

    def _start(self) -> None:
        actor = self._kind.remote(self._make_judge)
        self._running[actor.here.remote()] = (actor, "", None)

    def _assign(self, jobs: deque[Job]) -> None:
        while jobs and self._idle:
            actor, name = self._idle.pop()
            job = jobs.popleft()
            self._running[actor.do.remote(job.parcel())] = (actor, name, job)

    def _result(self, call: Any) -> Any:
        """What a call returned; a `_Death` if its worker is gone."""
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayActorError as error:
            return _Death(" ".join(str(error).split())[:300])
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            raise BackendError(
                "the Ray cluster failed",
                found=" ".join(str(error).split())[:300],
                remedy="look at 'ray status', then run the sweep again: finished units stay",
            ) from None

    def _died(self, job: Job | None, death: _Death, jobs: deque[Job]) -> None:
        """Put the job of a worker that died back; start another worker if none is free to take it."""
        self._executor.lost += 1
        key = _STARTING if job is None else job.unit.key
        self._lost[key] += 1
        if self._lost[key] >= ATTEMPTS:
            where = "before their first unit" if job is None else f"at {_words(job)}"
            raise BackendError(
                "workers of the Ray cluster die again and again",
                found=f"{ATTEMPTS} of them {where}; the last one: {death.reason}",
                remedy="look at the memory of the machines, then run the sweep again: finished units stay",
            )
        if job is not None:
            jobs.appendleft(job)
        if jobs and not self._idle:
            self._start()


def _words(job: Job) -> str:
    first, last = job.prompts[0].id, job.prompts[-1].id
    return f"{job.bundle.name}, {job.point.name}, prompts '{first}' to '{last}'"


def _import_ray(address: str) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        # Read when Ray is imported: its ports are open to this machine only, and to nobody without the token, which is
        # made once because a process can't change it.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(16)
    return require("ray", "fleet")


@contextmanager
def _connected(ray: Any, address: str, workers: int | None, threads: int) -> Iterator[None]:
    """Connect to the cluster; one that was started for it ends with it, and leaves no files."""
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
    # Ray prints what it has to say about dead workers to standard output, where only results belong.
    with (
        redirect_stdout(sys.stderr),
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
    ):
        if address == LOCAL:
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": folder}
            if workers is not None:
                options["num_cpus"] = workers * threads
        try:
            ray.init(**options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _unusable(address, " ".join(str(error).split())[:300]) from None
        try:
            yield
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:]+\]", host) or not port.isdecimal() or int(port) > 65535:
        raise _unusable(address, "not of the form HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise _unusable(address, error.strerror or error) from None


def _unusable(address: str, found: object) -> ConfigError:
    return ConfigError(
        f"the Ray cluster '{address}' can't be used",
        found=found,
        expected=f"'{LOCAL}', or the HOST:PORT of a cluster that this machine is part of",
        remedy="check the address, and 'ray status' on this machine",
    )
