"""The claim about fuzzing; benchmarks/fuzz_bundle.py is what it runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.claims import ROOT, Measured, claim
from jetson_runtime.errors import ConfigError

__all__: list[str] = []

_RUNS = {
    "manifest": 350_000,
    "envelope": 350_000,
    "trust": 300_000,
    "manifest-edits": 15_000,
    "envelope-edits": 15_000,
    "statement-edits": 15_000,
    "trust-edits": 15_000,
}
_TIMEOUT_S = 10


@claim(
    "gate.fuzz",
    "executions of the manifest, envelope and trust file readers under coverage-guided fuzzing; none if one fails",
    "runs",
    ">=",
    1_000_000,
)
def fuzz() -> Measured:
    """A failure is an exception that is not the reader's own, 10 s without an end, or an acceptance that is wrong."""
    if importlib.util.find_spec("atheris") is None:
        raise ConfigError("atheris is not installed", remedy="pip install --group fuzz")
    with ThreadPoolExecutor(len(_RUNS)) as pool:
        details = dict(zip(_RUNS, pool.map(_run, _RUNS, _RUNS.values()), strict=True))
    whole = all(row["exit_code"] == 0 for row in details.values())
    return Measured(sum(row["runs"] for row in details.values()) if whole else 0, details)


def _run(target: str, runs: int) -> dict[str, Any]:
    from benchmarks import fuzz_bundle

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "corpus").mkdir()
        for number, seed in enumerate(fuzz_bundle.seeds(target)):
            (folder / "corpus" / f"seed{number}").write_bytes(seed)
        lines = [f'"{_escaped(word)}"' for word in fuzz_bundle.words(target)]
        (folder / "words").write_text("\n".join(lines) + "\n", encoding="ascii")
        command = [sys.executable, "-m", "benchmarks.fuzz_bundle", target, f"-runs={runs}", "-seed=1", "-max_len=4096",
                   f"-timeout={_TIMEOUT_S}", "-rss_limit_mb=2048", "-print_final_stats=1", f"-dict={folder / 'words'}",
                   f"-artifact_prefix={folder}/", str(folder / "corpus")]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        text = done.stderr.decode(errors="replace")
        executed, seconds, covered = (
            re.findall(pattern, text)
            for pattern in (r"number_of_executed_units: (\d+)", r"Done \d+ runs in (\d+) second", r"cov: (\d+)")
        )
        row: dict[str, Any] = {
            "exit_code": done.returncode,
            "runs": int(executed[-1]) if executed else 0,
            "seconds": int(seconds[-1]) if seconds else None,
            "edges_covered_first_and_last": [int(covered[0]), int(covered[-1])] if covered else [],
            "corpus_files": len(list((folder / "corpus").iterdir())),
        }
        if done.returncode:
            row["output"] = text[-2000:].replace(str(folder), "")
        return row


def _escaped(word: str) -> str:
    r"""A word as libFuzzer's dictionaries have it: `\"`, `\\` and `\xAB` escapes."""
    return "".join(
        f"\\{letter}" if letter in '"\\' else letter if " " <= letter <= "~" else f"\\x{ord(letter):02X}"
        for letter in word
    )
