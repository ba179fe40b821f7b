"""The claim that no kill -9 takes the bundle away: every real command, killed before every call that changes a file."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.claims import Measured, claim
from benchmarks.kill_points import Run, run
from engine_builder import compile as compiling
from engine_builder.cli import main as engine_build
from engine_builder.compile import Ranges
from jetson_runtime.bundle import BOM, ENVELOPE, Bundle, open_bundle
from jetson_runtime.cli import main as jetson_runtime
from jetson_runtime.errors import InputError
from jetson_runtime.files import read_json
from jetson_runtime.install_log import read_log
from jetson_runtime.slots import LOG, SLOTS, STATE, Root, current
from jetson_runtime.trust import Trust
from tests.signing import key, release, trust_file
from tests.tiny import build_values

__all__ = ["SCENARIOS", "Outcome", "Scenario", "kill_everywhere", "make_parts"]

NOTHING, OLD, NEW = "nothing", "release 1", "release 2"


@dataclass(frozen=True)
class Scenario:
    """A command that changes a folder, what may be found there at any moment of it, and what is there in the end.

    `before` are commands that were finished before it, `again` is what a user does after a power loss.
    """

    name: str
    command: Callable[[Path, Path], int]
    serves: Callable[[Path, Path], str]
    allowed: tuple[str, ...]
    before: tuple[Callable[[Path, Path], int], ...] = ()
    again: Callable[[Path, Path], int] | None = None


@dataclass
class Outcome:
    """What was found after each kill; `failures` are kill points after which something was wrong, and in words what."""

    calls: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    kill_points: int = 0
    failures: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For the claim's details."""
        return {
            "kill_points": self.kill_points,
            "calls": dict(sorted(self.calls.items())),
            "found": dict(sorted(self.found.items())),
            "failures": self.failures,
        }


def make_parts(checkpoint: Path, parts: Path) -> Path:
    """What the commands work on: two releases of a tiny bundle, signed, a trust file, and what to export them from."""
    for number in (1, 2):
        config = parts / f"build-{number}.yaml"
        values = build_values(precision="fp32", target="cpu", release=number)
        config.write_text(yaml.safe_dump({**values, "checkpoint": str(checkpoint)}), encoding="utf-8")
    engine_build(["export", "--config", str(parts / "build-1.yaml"), "--out", str(parts / "bundle"), "--json"])
    for number in (1, 2):
        release(parts / "bundle", parts / f"release-{number}", number, 1)
        pem = key(number).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (parts / f"{number}.key").write_bytes(pem)
    trust_file(parts / "trust.json", 1)
    return parts


def _install(number: int, *options: str) -> Callable[[Path, Path], int]:
    def call(folder: Path, parts: Path) -> int:
        words = ["install", parts / f"release-{number}", "--root", folder / "root", "--trust", parts / "trust.json"]
        return jetson_runtime([*map(str, words), *options])

    return call


def _root(*names: str) -> Callable[[Path, Path], int]:
    """Commands on the root, one after another."""
    return lambda folder, parts: max(jetson_runtime([name, "--root", str(folder / "root")]) for name in names)


def _on_trial(then: Callable[[Path, Path], int], otherwise: Callable[[Path, Path], int]) -> Callable[[Path, Path], int]:
    """One command while something is on trial, another where nothing is."""
    return lambda folder, parts: (then if Root(folder / "root").state().trial else otherwise)(folder, parts)


def _export(number: int) -> Callable[[Path, Path], int]:
    return lambda folder, parts: engine_build(
        ["export", "--config", str(parts / f"build-{number}.yaml"), "--out", str(folder / "out"), "--force"]
    )


class _Copier:
    """In place of a compiler: what is killed here is the writing of the bundle, not TensorRT."""

    version = "0"

    def build(self, engine: object, source: Path, destination: Path, ranges: Ranges) -> None:
        destination.write_bytes(source.read_bytes())


def _compile(number: int) -> Callable[[Path, Path], int]:
    def call(folder: Path, parts: Path) -> int:
        compiling.COMPILERS = {"tensorrt-rtx": lambda target: _Copier()}  # in this child process
        words = ["compile", parts / f"release-{number}", "--target", "rtx-sm86", "--out", folder / "out", "--force"]
        return engine_build([*map(str, words)])

    return call


def _sign(number: int) -> Callable[[Path, Path], int]:
    return lambda folder, parts: engine_build(["sign", str(folder / "out"), "--key", str(parts / f"{number}.key")])


def _bom(folder: Path, parts: Path) -> int:
    return engine_build(["bom", str(folder / "out")])


def _copy(name: str) -> Callable[[Path, Path], int]:
    def call(folder: Path, parts: Path) -> int:
        shutil.copytree(parts / name, folder / "out")
        return 0

    return call


def _installed(folder: Path, parts: Path) -> str:
    """What the next start gets; every slot, the state and the log have to hold together."""
    root, trust = Root(folder / "root"), Trust.read(parts / "trust.json")
    for name in SLOTS:
        if root.slot(name).exists():
            open_bundle(root.slot(name), trust)
    log = read_log(root.path / LOG)
    if log.broken_line is not None:
        raise AssertionError(f"line {log.broken_line} of the log is broken")
    try:
        return f"release {open_bundle(current(root.path), trust).manifest.release}"
    except InputError:
        return NOTHING if not (root.path / STATE).exists() else "a state without a bundle"


def _exported(folder: Path, parts: Path) -> str:
    """The bundle at the destination, every byte of it checked."""
    if not (folder / "out").exists():
        return NOTHING
    return f"release {open_bundle(folder / 'out').manifest.release}"


def _with(fact: Callable[[Bundle], bool]) -> Callable[[Path, Path], str]:
    """For what is written into a bundle: the new one has it, the old one does not, both open."""
    return lambda folder, parts: NEW if fact(open_bundle(folder / "out")) else OLD


def _signatures(folder: Path, parts: Path) -> str:
    """A bundle whose first signature is still accepted."""
    bundle = open_bundle(folder / "out", Trust.read(parts / "trust.json"))
    return f"release {len(read_json(bundle.file(ENVELOPE))['signatures'])}"


_TRIAL = (_install(1), _install(2, "--trial", "1"))
_DONE = _root("status")
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("install, first", _install(2), _installed, (NOTHING, NEW)),
        Scenario("install", _install(2), _installed, (OLD, NEW), (_install(1), _install(1))),  # both slots are full
        Scenario(
            "install --trial", _install(2, "--trial", "1"), _installed, (OLD, NEW), (_install(1),),
            _on_trial(_root("confirm"), _install(2)),
        ),
        Scenario("confirm", _root("confirm"), _installed, (NEW,), _TRIAL, _on_trial(_root("confirm"), _DONE)),
        Scenario(
            "rollback", _root("rollback"), _installed, (OLD, NEW), _TRIAL,
            _on_trial(_root("confirm"), _install(2)),
        ),
        Scenario(
            "resolve, the last start of a trial and the one after", _root("resolve", "resolve"), _installed, (OLD, NEW),
            _TRIAL, _on_trial(_root("confirm"), _install(2)),
        ),
        Scenario("engine-build export", _export(2), _exported, (NOTHING, NEW)),
        Scenario("engine-build export --force", _export(2), _exported, (OLD, NEW), (_export(1),)),
        Scenario("engine-build compile --force", _compile(2), _exported, (OLD, NEW), (_compile(1),)),
        Scenario("engine-build bom", _bom, _with(lambda bundle: BOM in bundle.manifest.files), (OLD, NEW),
                 (_copy("bundle"),)),
        Scenario("engine-build sign", _sign(1), _with(lambda bundle: bundle.signed), (OLD, NEW), (_copy("bundle"),)),
        Scenario("engine-build sign, a second key", _sign(2), _signatures, (OLD, NEW), (_copy("release-2"),)),
    )
}  # fmt: skip


def kill_everywhere(name: str, parts: Path, most: int | None = None) -> Outcome:
    """Run a scenario once for each of its kill points, or for `most` of them that are spread evenly.

    This forks; call it in a process of its own.
    """
    _import_once()
    scenario, outcome = SCENARIOS[name], Outcome()
    with tempfile.TemporaryDirectory() as place:
        start = Path(place) / "start"
        start.mkdir()
        for command in scenario.before:
            _succeed(run(lambda: command(start, parts), start))  # noqa: B023 (it is run at once)
        with _copy_of(start) as folder:
            whole = run(lambda: scenario.command(folder, parts), folder)
            _succeed(whole)
            found = scenario.serves(folder, parts)
            wrong = [*whole.mistakes, *(f"{path} is not flushed in the end" for path in whole.unflushed())]
            outcome.failures += [f"finished: {text}" for text in wrong]
        outcome.calls.update(call.name for call in whole.calls)
        total = len(whole.calls)
        points = range(total) if most is None else sorted({total * at // most for at in range(most)})
        for point in points:
            with _copy_of(start) as folder:
                what = f"killed before call {point + 1} of {total}"
                try:
                    outcome.found[_killed(scenario, folder, parts, point)] += 1
                except Exception as error:  # whatever is wrong is a result here
                    outcome.failures.append(f"{what}: {error!r}")
        outcome.kill_points = len(points)
        outcome.found[f"finished: {found}"] += 1
    return outcome


def _import_once() -> None:
    """What every child would import again."""
    import threading

    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import PIL.Image
    from tqdm import tqdm

    import jetson_runtime.backends.onnxruntime  # noqa: F401

    PIL.Image.preinit()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed child would leave behind


def _killed(scenario: Scenario, folder: Path, parts: Path, point: int) -> str:
    """What serves after a kill, with all that was written and with half of what was not flushed."""
    stopped = run(lambda: scenario.command(folder, parts), folder, point)
    if stopped.exit_code is not None:
        raise AssertionError(f"it ended by itself with exit code {stopped.exit_code}")
    found = scenario.serves(folder, parts)
    stopped.tear()
    if scenario.serves(folder, parts) != found or found not in scenario.allowed:
        raise AssertionError(f"{found} is there, and {scenario.serves(folder, parts)} after a power loss")
    _succeed(run(lambda: (scenario.again or scenario.command)(folder, parts), folder))
    after = scenario.serves(folder, parts)
    hidden = [path.name for path in folder.rglob(".*")]
    if after != NEW or hidden:
        raise AssertionError(f"after the next command there is {after}, and {hidden} is left over")
    return found


def _succeed(finished: Run) -> None:
    if finished.exit_code != 0:
        raise AssertionError(f"a command that was not killed ended with exit code {finished.exit_code}")


@contextmanager
def _copy_of(start: Path) -> Iterator[Path]:
    folder = start.with_name("folder")
    shutil.copytree(start, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@claim("gate.kill-9", "kill points after which neither the old nor the new bundle serves", "points", "<=", 0)
def kill_nine() -> Measured:
    """Every kill point of every scenario, over a tiny signed bundle."""
    from tests.tiny import KINDS, save_model, save_processor

    with tempfile.TemporaryDirectory() as place:
        checkpoint, parts = Path(place) / "checkpoint", Path(place) / "parts"
        for folder in (checkpoint, parts):
            folder.mkdir()
        save_model(checkpoint, *KINDS["clip-llama"])
        save_processor(checkpoint)
        make_parts(checkpoint, parts)
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            futures = {name: pool.submit(kill_everywhere, name, parts) for name in SCENARIOS}
            outcomes = {name: future.result() for name, future in futures.items()}
    details = {
        "kill_points": sum(outcome.kill_points for outcome in outcomes.values()),
        "commands": {name: outcome.to_dict() for name, outcome in outcomes.items()},
    }
    return Measured(sum(len(outcome.failures) for outcome in outcomes.values()), details)
