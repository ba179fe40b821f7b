"""A sweep on a real Ray cluster: a worker that is killed costs its unit's time and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sweeping import make_folder, result_bytes

pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")

ROOT = Path(__file__).resolve().parents[2]


def test_a_worker_killed_under_way_changes_no_byte(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'fleet' is not installed")
    folder = make_folder(tmp_path, tiny_bundle("clip-llama", "fp32"))
    folder.sweep("one")

    command = [sys.executable, Path(__file__).parent / "ray_sweep.py", folder.path / "sweep.yaml", folder.path / "two"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "refusal_suite")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert done.returncode == 0, done.stderr
    gave_up, swept = done.stdout.splitlines()
    # One that was killed, and all that the deadly job took with it.
    assert swept == "lost 4 computed 14 by several True"
    assert "workers of the Ray cluster die again and again found: 3 of them at" in gave_up
    assert "d2, prompts 'p8' to 'p8'" in gave_up
    assert "zq1" not in done.stdout + done.stderr
    assert result_bytes(folder.path / "one") == result_bytes(folder.path / "two")
