"""A claim: a name, a bound, and the function that measures it."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetson_runtime.files import write_json
from jetson_runtime.machine import machine_facts

__all__ = ["CLAIMS", "ROOT", "Claim", "Measured", "claim", "measure"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CLAIMS: dict[str, Claim] = {}


@dataclass(frozen=True)
class Measured:
    """The value that decides, and what it was computed from."""

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """`relation` is how the value must stand to the bound: `<=`, `>=` or `>`."""

    name: str
    text: str
    unit: str
    relation: str
    bound: float
    run: Callable[[], Measured]

    def holds(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return {"<=": value <= self.bound, ">=": value >= self.bound, ">": value > self.bound}[self.relation]


def claim(
    name: str, text: str, unit: str, relation: str, bound: float
) -> Callable[[Callable[[], Measured]], Callable[[], Measured]]:
    """Register the decorated function as the measurement of a claim."""

    def register(run: Callable[[], Measured]) -> Callable[[], Measured]:
        CLAIMS[name] = Claim(name, text, unit, relation, bound, run)
        return run

    return register


def measure(item: Claim) -> bool:
    """Measure a claim, record the result, print its line last; whether it holds."""
    commit = _commit()
    result = item.run()
    holds = item.holds(result.value)
    record = {
        "claim": item.name,
        "text": item.text,
        "value": result.value,
        "unit": item.unit,
        "bound": f"{item.relation} {item.bound:g}",
        "holds": holds,
        "command": f"python -m benchmarks {item.name}",
        "machine": {**machine_facts(), "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "details": result.details,
    }
    write_json(RESULTS / f"{item.name}.json", record)
    verdict = "holds" if holds else "falls-short"
    print(f"{item.name} {result.value:.4g} {item.unit} {item.relation}{item.bound:g} {verdict}")
    return holds


def _commit() -> str:
    """The commit that is measured, "-dirty" if files differ from it; results don't count, one run records many."""
    commit = _git("describe", "--always", "--exclude=*", "--abbrev=12")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return f"{commit}{'-dirty' if changed else ''}" if commit else "not a git checkout"


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()
