"""The built wheel in an empty environment: runs a bundle, and neither torch nor transformers gets in."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def call(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment that holds the wheel with its extra `cpu`."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    call(folder / "env/bin/python", "-m", "pip", "install", "--quiet", f"{wheel}[cpu]")
    return folder / "env/bin"


def test_runs_a_bundle_without_torch(environment: Path, tiny_bundle: Callable[[str, str], Path]) -> None:
    bundle = tiny_bundle("clip-llama", "fp32")
    answer = json.loads(
        call(environment / "jetson-runtime", "ask", bundle, "--prompt", "hello", "--max-tokens", 4, "--json")
    )
    assert 1 <= len(answer["tokens"]) <= 4
    listed = json.loads(call(environment / "python", "-m", "pip", "list", "--format", "json"))
    names = {package["name"].lower() for package in listed}
    assert not names & {"torch", "transformers", "onnx", "safetensors", "accelerate"}


def test_every_command_explains_itself(environment: Path) -> None:
    for command in ("engine-build", "engine-calibrate", "refusal-check", "jetson-runtime", "realign"):
        assert "exit codes" in call(environment / command, "--help")


def test_a_missing_extra_is_named_with_its_pip_line(environment: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [environment / "realign", "assemble", tmp_path / "out"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 7
    assert "pip install 'holdfast[realign]'" in done.stderr
